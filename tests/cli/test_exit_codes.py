"""How a command ends: one line for a fault, and the same status wherever it is found."""

import re
import socket
import subprocess
import sys

import pytest

from segsrv.cli import main
from tests.command import segsrv
from tests.mmdb import write_mmdb
from tests.server_process import REPOSITORY, ServerProcess

CONFIGURATION = REPOSITORY / "docs" / "configuration.md"
WRONG_SETTINGS, CANNOT_START = 2, 3
SECRET = "hunter2"

FAULTS = [
    # Flags.
    (["--prot", "1"], {}, WRONG_SETTINGS, "--prot: there is no such flag"),
    ([f"--write-kye={SECRET}"], {}, WRONG_SETTINGS, "--write-kye: there is no such flag"),
    (["--write-kye", SECRET], {}, WRONG_SETTINGS, "--write-kye: there is no such flag"),
    (["--write-key", "a", SECRET], {}, WRONG_SETTINGS, "belongs to no flag"),
    (["--correct-timestamps"], {}, WRONG_SETTINGS, "--correct-timestamps: expected a value"),
    (["--correct-timestamps", "--port", "1"], {}, WRONG_SETTINGS, "--correct-timestamps: expect"),
    (["--write-key", f"-{SECRET}"], {}, WRONG_SETTINGS, "--flag=VALUE"),
    (["--por", "1"], {}, WRONG_SETTINGS, "--por: there is no such flag"),
    # Values.
    (["--port", "x"], {}, WRONG_SETTINGS, "--port=x"),
    (["--client-ip-header", "X-Real-IP: "], {}, WRONG_SETTINGS, "client_ip_header='X-Real-IP: '"),
    (["--ops-listen", "here"], {}, WRONG_SETTINGS, "ops_listen=here"),
    (["--port", "70000"], {}, WRONG_SETTINGS, "--port=70000"),
    (["--data-dir", ""], {}, WRONG_SETTINGS, "--data-dir"),
    (["--config", ""], {}, WRONG_SETTINGS, "--config"),
    (["--config", "nowhere.toml"], {}, WRONG_SETTINGS, "nowhere.toml"),
    (["--body-bytes-max", "9000000", "--reading-bytes-max", "2000000"], {}, 2, "9000000"),
    (["--write-key", f"a:{SECRET}", "--write-key", f"b:{SECRET}"], {}, 2, "'a' and 'b'"),
    ([], {"SEGSRV_PROT": "1"}, WRONG_SETTINGS, "SEGSRV_PROT: there is no such setting"),
    ([], {"SEGSRV_PORT": "80x"}, WRONG_SETTINGS, "SEGSRV_PORT=80x"),
    ([], {"SEGSRV_WRITE_KEY": ""}, WRONG_SETTINGS, "SEGSRV_WRITE_KEY: is empty"),
    # What settings name.
    (["--sink", "ftp:x"], {}, WRONG_SETTINGS, "ftp"),
    (["--sink", "nothing"], {}, WRONG_SETTINGS, "sink=nothing"),
    (["--sink", "file:a", "--sink", "file:a"], {}, WRONG_SETTINGS, "twice"),
    (["--geoip-db", "nowhere.mmdb"], {}, WRONG_SETTINGS, "geoip_db=nowhere.mmdb"),
    (["--geoip-db", "file", "--workers", "3"], {}, WRONG_SETTINGS, "geoip_db=file"),
    (["--trusted-proxies", "here"], {}, WRONG_SETTINGS, "trusted_proxies=here"),
    (["--analytics-js-dir", "nowhere"], {}, WRONG_SETTINGS, "analytics_js_dir=nowhere"),
    (["--tls-cert", "a"], {}, WRONG_SETTINGS, "give both"),
    (["--tls-cert", "a", "--tls-key", "b"], {}, WRONG_SETTINGS, "tls_cert=a"),
    (["--write-key-file", "nowhere"], {}, WRONG_SETTINGS, "write_key_file=nowhere"),
    # This machine.
    (["--data-dir", "file"], {}, CANNOT_START, "data_dir=file"),
    (["--data-dir", "in-the-way", "--workers", "2"], {}, CANNOT_START, "in-the-way/journal/w1"),
    (["--data-dir", "no-key"], {}, CANNOT_START, "no-key/state/write-key: holds no key"),
    (["--host", "192.0.2.1"], {}, CANNOT_START, "can't listen on 192.0.2.1"),
    (["--host", "a..b"], {}, CANNOT_START, "can't listen on a..b"),
]


@pytest.mark.parametrize(
    ("flags", "variables", "code", "part"), FAULTS, ids=[fault[3] for fault in FAULTS]
)
def test_a_fault_ends_serve_and_check_alike(
    tmp_path, monkeypatch, capsys, flags, variables, code, part
):
    """The same one line on stderr and the same status, before anything is made."""
    (tmp_path / "file").write_text("")
    (tmp_path / "in-the-way" / "journal").mkdir(parents=True)
    (tmp_path / "in-the-way" / "journal" / "w1").write_text("")
    (tmp_path / "no-key" / "state").mkdir(parents=True)
    (tmp_path / "no-key" / "state" / "write-key").write_bytes(b"\xff\xfe")
    before = sorted(tmp_path.rglob("*"))

    served = segsrv("serve", *flags, cwd=tmp_path, **variables)
    # In this process, which saves a second: a check can't go on for ever.
    monkeypatch.chdir(tmp_path)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    checked_code = main(["check", *flags])
    checked = capsys.readouterr()

    assert part in served.stderr
    assert served.stderr.startswith("segsrv: ")
    assert served.stderr.count("\n") == 1, served.stderr
    assert checked.err == served.stderr
    assert (served.returncode, checked_code) == (code, code)
    assert served.stdout == checked.out == ""
    assert SECRET not in served.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["sevre"], "sevre"),
        (["--vers"], "COMMAND"),
        (["geoip"], "COMMAND"),
        (["geoip", "fetch"], "fetch"),
        (["geoip", "download", "--too"], "--too: there is no such flag"),
        (["geoip", "download", "--provider", "x"], "--provider"),
    ],
)
def test_a_command_that_is_none_is_one_line(tmp_path, arguments, part):
    """No page of usage hides what is wrong."""
    ended = segsrv(*arguments, cwd=tmp_path)

    assert ended.returncode == WRONG_SETTINGS
    assert part in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_help_is_no_fault(tmp_path):
    """`--help` prints every flag and ends with 0."""
    ended = segsrv("serve", "--help", cwd=tmp_path)

    assert ended.returncode == 0
    assert "--write-key-file PATH" in ended.stdout


def test_check_beside_the_running_server(tmp_path):
    """Settings are checked before a restart: that the server holds its port is no fault."""
    with ServerProcess(tmp_path / "data") as server:
        flags = ["--host", "127.0.0.1", "--port", str(server.port), "--data-dir", "data"]
        ended = segsrv("check", *flags, "--write-key", "key", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr


def test_a_port_in_use_ends_with_3(tmp_path):
    """A second server on the port can't start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = segsrv("serve", "--host", "127.0.0.1", "--port", port, cwd=tmp_path)

    assert ended.returncode == CANNOT_START
    assert port in ended.stderr


def test_check_of_a_sink_that_can_not_be_opened_ends_with_3(tmp_path):
    """It is found before the server starts, which would keep the events and try it again."""
    (tmp_path / "file").write_text("")
    ended = segsrv("check", "--sink", "file:file/events", cwd=tmp_path)

    assert ended.returncode == CANNOT_START
    assert "file/events" in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_a_database_is_checked_where_nothing_can_be_written(tmp_path):
    """The check of a database makes no copy of it, not even in a temporary folder."""
    write_mmdb(tmp_path / "city.mmdb", {"8.8.8.0/24": {"country": {"iso_code": "US"}}})
    nowhere = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), "/proc")
    ended = segsrv("check", "--geoip-db", "city.mmdb", cwd=tmp_path, **nowhere)

    assert ended.returncode == 0, ended.stderr
    assert "(city.mmdb)" in ended.stdout


def test_a_folder_of_another_user_is_one_line(tmp_path):
    """A data directory that may not even be looked at is a fault of the start, not a traceback."""
    closed = tmp_path / "closed"
    (closed / "data").mkdir(parents=True)
    closed.chmod(0)
    try:
        program = (
            "import os, sys; from pathlib import Path; from segsrv.files import obstacle;"
            "os.getuid() or os.setuid(65534); print(obstacle(Path(sys.argv[1])))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, str(closed / "data")],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        closed.chmod(0o700)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in map(str, (closed, *closed.parents))


def test_the_codes_are_documented():
    """The docs say what each status means."""
    section = CONFIGURATION.read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\d)` \|", section, re.MULTILINE) == ["0", "1", "2", "3", "4"]
