"""Keys from a file: the process list shows none, and every way to start reads the same ones."""

import os
import threading
from pathlib import Path

import pytest

from segsrv import Key, Settings, SettingsError, create_app
from segsrv.write_keys import with_keys
from tests.command import segsrv
from tests.server_process import MOUNTED, ServerProcess
from tests.site import Site, new_id

SECRET = "hunter2"
FILE = f"""\ufeff# Keys of the shop.
web:{SECRET}

  other-secret\r
# backend:unused
"""


@pytest.mark.parametrize("program", [("-m", "segsrv"), MOUNTED], ids=["serve", "mounted"])
def test_a_server_takes_the_keys_of_its_file(tmp_path, program):
    """Each line is a key, beside those of other settings; none is in the process list."""
    (tmp_path / "keys").write_text(FILE)
    flags = ["--write-key-file", str(tmp_path / "keys")]
    with ServerProcess(tmp_path / "data", *flags, write_keys=["third"], program=program) as server:
        site = Site(server)
        for key in (SECRET, "other-secret", "third"):
            event = {"type": "track", "event": "e", "userId": "u", "messageId": new_id()}
            assert site.post(event, key=key).status == 200
        for key in ("unused", "backend:unused", "#", "", "web"):
            assert site.post({"type": "track", "event": "e", "userId": "u"}, key=key).status == 401
        assert SECRET not in Path(f"/proc/{server.pid}/cmdline").read_text()
        assert SECRET not in server.stdout + server.stderr


def test_check_names_the_keys_of_the_file(tmp_path):
    """`check` says their ids, and that no key will be made."""
    (tmp_path / "keys").write_text(FILE)
    for where in (["--write-key-file", "keys"], []):
        variables = {} if where else {"SEGSRV_WRITE_KEY_FILE": "keys"}
        ended = segsrv("check", *where, cwd=tmp_path, **variables)

        assert ended.returncode == 0, ended.stderr
        assert "web, key-" in ended.stdout
        assert "key file" not in ended.stdout
        assert SECRET not in ended.stdout


def test_a_file_is_read_once(tmp_path):
    """A pipe, as a shell makes it of the output of a secret store, is a file too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(FILE,))
    writer.start()
    ended = segsrv("check", "--write-key-file", "pipe", cwd=tmp_path)
    writer.join()

    assert ended.returncode == 0, ended.stderr
    assert "web, key-" in ended.stdout


def test_an_embedding_application_gets_the_same(tmp_path):
    """`create_app` takes the keys of the file, and makes none."""
    (tmp_path / "keys").write_text(FILE)
    settings = Settings(write_key_file=tmp_path / "keys", data_dir=tmp_path / "data")
    create_app(settings)

    assert not (tmp_path / "data" / "state").exists()
    keys = with_keys(settings).all_keys()
    assert keys == (Key(id="web", secret=SECRET), Key.parse("other-secret"))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "No such file"),
        (b"", "has no key"),
        (b"\n# none\n\n", "has no key"),
        (f"web:{SECRET}\n\nweb:{SECRET} \tx\n".encode(), "line 3: expected SECRET or ID:SECRET"),
        (f":{SECRET}".encode(), "line 1: expected"),
        (f"{SECRET} # the web's".encode(), "line 1: expected"),
        (f"a:{SECRET}\na:b".encode(), "the id 'a' is given twice"),
        (f"a:{SECRET}\nb:{SECRET}".encode(), "same secret"),
        (SECRET.encode() + b"\xff", "expected UTF-8 text"),
        (SECRET.encode("utf-16"), "expected UTF-8 text"),
        (b"a" * 2_000_000, "more than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_one_line_without_the_secret(tmp_path, content, part):
    """Commands and `create_app` refuse it alike, by name and line."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    ended = segsrv("serve", "--write-key-file", str(path), cwd=tmp_path)
    with pytest.raises(SettingsError) as caught:
        create_app(Settings(write_key_file=path, data_dir=tmp_path / "data"))

    assert ended.returncode == 2
    assert ended.stderr == f"segsrv: {caught.value}\n"
    assert part in ended.stderr
    assert SECRET not in ended.stderr


def test_a_folder_is_no_file_of_keys(tmp_path):
    """What can't be read as a file is named."""
    with pytest.raises(SettingsError, match=f"write_key_file={tmp_path}: can't be read"):
        create_app(Settings(write_key_file=tmp_path))
