"""Settings: three sources, their order, and one clear line for what is wrong."""

import dataclasses
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from segsrv import Key, Settings, SettingsError
from segsrv.settings.sources import load
from tests.command import segsrv
from tests.server_process import REPOSITORY

CONFIGURATION = REPOSITORY / "docs" / "configuration.md"


class TestSources:
    def test_flag_over_environment_over_file(self, tmp_path):
        """A flag wins over the environment, and the environment over the file."""
        config = tmp_path / "segsrv.toml"
        config.write_text('port = 1\nworkers = 2\ndurability = "write"\n')
        environ = {"SEGSRV_PORT": "3", "SEGSRV_WORKERS": "4", "SEGSRV_CONFIG": str(config)}
        settings = load({"port": "5"}, environ)

        assert (settings.port, settings.workers, settings.durability) == (5, 4, "write")

    def test_the_config_flag_wins_over_its_variable(self, tmp_path):
        """`--config` names the file, whatever the environment says."""
        (tmp_path / "a.toml").write_text("port = 1\n")
        (tmp_path / "b.toml").write_text("port = 2\n")
        flags = {"config": str(tmp_path / "b.toml")}
        assert load(flags, {"SEGSRV_CONFIG": str(tmp_path / "a.toml")}).port == 2

    def test_lists_are_comma_separated_in_the_environment(self):
        """A variable holds a list separated by commas."""
        settings = load({}, {"SEGSRV_WRITE_KEY": "one, two:secret", "SEGSRV_GEOIP_DB": "a,b"})

        assert [key.secret for key in settings.all_keys()] == ["one", "secret"]
        assert (Path("a"), Path("b")) == settings.geoip_db

    def test_keys_have_id_secret_and_origins(self, tmp_path):
        """A `[[keys]]` table gives a key its id, its secret and its origins."""
        config = tmp_path / "segsrv.toml"
        config.write_text(
            '[[keys]]\nid = "web"\nsecret = "s"\norigins = ["https://*.example.com"]\n'
        )
        (key,) = load({"config": str(config)}, {}).all_keys()

        assert Key(id="web", secret="s", origins=("https://*.example.com",)) == key

    @pytest.mark.parametrize(
        "origin",
        ["*", "null", "https://*.example.com", "http://localhost:3000", "http*://[::1]:*", "*://a"],
    )
    def test_origins_as_browsers_send_them(self, origin):
        """A key takes origins with scheme and host, and patterns of them."""
        assert Key(id="web", secret="s", origins=(origin,)).origins == (origin,)

    @pytest.mark.parametrize(
        "origin", ["", "example.com", "*.example.com", "https://", "https://a/", "https://a/b", "a"]
    )
    def test_origins_that_no_browser_sends(self, origin):
        """What could never match is refused by name, for it would lock every page out."""
        with pytest.raises(SettingsError) as caught:
            Key(id="web", secret="s", origins=(origin,))

        shown = origin or "''"
        assert f"keys.web.origins={shown}: expected" in str(caught.value)

    def test_secrets_are_not_shown(self):
        """A key's text form does not hold its secret, and a derived id does not either."""
        (key,) = Settings(write_key=("hunter2",)).all_keys()
        assert "hunter2" not in repr(key)

    @pytest.mark.parametrize("spec", dataclasses.fields(Settings), ids=lambda spec: spec.name)
    def test_every_setting_is_in_the_docs(self, spec):
        """Each setting has its row in the documentation, with its default."""
        row = re.search(rf"^\| `{spec.name}` \|.*$", CONFIGURATION.read_text(), re.MULTILINE)

        assert row is not None
        if spec.default != "" and isinstance(spec.default, int | float | str):
            assert f"`{spec.default}`" in row[0]


class TestErrors:
    @pytest.mark.parametrize(
        ("flags", "environ", "parts"),
        [
            ({"port": "abc"}, {}, ["--port=abc", "whole number"]),
            ({"port": "70000"}, {}, ["port=70000", "0 to 65535"]),
            ({"durability": "maybe"}, {}, ["durability", "maybe", "fsync, write, memory"]),
            ({}, {"SEGSRV_PROT": "1"}, ["SEGSRV_PROT", "no such setting"]),
            ({}, {"SEGSRV_KEYS": "x"}, ["SEGSRV_KEYS", "no such setting"]),
            ({}, {"SEGSRV_FLUSH_INTERVAL_S": "x"}, ["SEGSRV_FLUSH_INTERVAL_S=x", "number"]),
            ({"write_key": ["same:a", "same:b"]}, {}, ["keys", "same", "twice"]),
            ({"write_key": [":"]}, {}, ["write_key", "SECRET"]),
            ({"config": "/nothing.toml"}, {}, ["/nothing.toml", "No such file"]),
        ],
    )
    def test_wrong_settings_say_what_and_where(self, flags, environ, parts):
        """A wrong or unknown setting is one line with its name, its value and what is expected."""
        with pytest.raises(SettingsError) as caught:
            load(flags, environ)

        assert all(part in str(caught.value) for part in parts), str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("prot = 1", ["prot", "no such setting"]),
            ("port = '1'", ["port", "whole number"]),
            ("port = true", ["port", "whole number"]),
            ("sink = 'file:'", ["sink", "list"]),
            ("port = ", ["not valid TOML"]),
            ("[[keys]]\nid = 'a'", ["keys", "secret"]),
            ("[[keys]]\nid = 'a'\nsecret = 'b'\ncolour = 1", ["keys", "colour"]),
            ("keys = 1", ["keys", "[[keys]]"]),
        ],
    )
    def test_wrong_files_name_the_file(self, tmp_path, text, parts):
        """What is wrong in a file is said with the file's name."""
        config = tmp_path / "wrong.toml"
        config.write_text(text)
        with pytest.raises(SettingsError) as caught:
            load({"config": str(config)}, {})

        assert all(part in str(caught.value) for part in [*parts, "wrong.toml"]), str(caught.value)


class TestCommands:
    def test_check_says_what_would_run_and_changes_nothing(self, tmp_path):
        """`check` prints address, formats, keys, sinks and durability, and leaves no file."""
        ended = segsrv("check", "--write-key", "web:hunter2", cwd=tmp_path)

        assert ended.returncode == 0, ended.stderr
        for part in ("0.0.0.0:8080", "/api/v1/segment/compat", "web", "data/events", "fsync"):
            assert part in ended.stdout
        assert "hunter2" not in ended.stdout
        assert list(tmp_path.iterdir()) == []

    def test_check_finds_the_key_of_an_earlier_start(self, tmp_path):
        """`check` after a start names the key that the next start will use."""
        state = tmp_path / "data" / "state"
        state.mkdir(parents=True)
        assert "made at the first start" in segsrv("check", cwd=tmp_path).stdout
        (state / "write-key").write_text("secret\n")
        ended = segsrv("check", cwd=tmp_path)

        assert re.search(r"keys +default\n", ended.stdout)
        assert "first start" not in ended.stdout
        assert "secret" not in ended.stdout

    @pytest.mark.parametrize("command", ["serve", "check"])
    def test_secrets_are_in_no_error(self, tmp_path, command):
        """A wrong setting is named without the secret that stands in it."""
        config = tmp_path / "segsrv.toml"
        config.write_text('write_key = "hunter2"\n')
        for flags in (["--config", str(config)], ["--sink", "nats://user:hunter2@host/topic"]):
            ended = segsrv(command, *flags, cwd=tmp_path)
            assert ended.returncode != 0
            assert "hunter2" not in ended.stderr + ended.stdout
        assert "host/topic" in ended.stderr

    def test_check_fails_on_a_sink_that_could_not_be_opened(self, tmp_path):
        """A sink in a place that can't be a folder fails the check."""
        (tmp_path / "file").write_text("")
        ended = segsrv("check", "--sink", "file:file/events", cwd=tmp_path)

        assert ended.returncode != 0
        assert "file/events" in ended.stderr

    def test_the_version_is_printed(self, tmp_path):
        """`--version` prints name and version."""
        assert re.fullmatch(r"segsrv \d+\.\d+\.\d+\n", segsrv("--version", cwd=tmp_path).stdout)


class TestFirstStart:
    def start(self, tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-m", "segsrv", "serve", "--host", "127.0.0.1", "--port", "0"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        lines = []
        with process.stdout:
            # The banner ends with its key file, or with the curl of a first start.
            for line in process.stdout:
                lines.append(line)
                if line.startswith("curl ") or ("key file" in line and self.has_started):
                    break
            self.has_started = True
            return process, "".join(lines)

    def test_a_start_that_fails_for_its_port_leaves_nothing(self, tmp_path):
        """The key is made when the port is there, so that the start that makes it can say it."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            ended = segsrv("serve", "--host", "127.0.0.1", "--port", port, cwd=tmp_path)
        assert port in ended.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_key_that_nobody_was_told_is_printed(self, tmp_path):
        """A key made by a start that failed later is printed by the first one that succeeds."""
        state = tmp_path / "data" / "state"
        state.mkdir(parents=True)
        (state / "write-key").write_text("made-earlier\n")
        key = "made-earlier"
        self.has_started = False
        process, banner = self.start(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert key in banner

    def test_a_key_is_made_printed_once_and_kept(self, tmp_path):
        """The first start prints a curl with a new key that works; the second keeps the key."""
        self.has_started = False
        process, banner = self.start(tmp_path)
        try:
            curl = banner.splitlines()[-1]
            sent = subprocess.run(curl, shell=True, capture_output=True, timeout=30, check=True)
            assert sent.stdout == b'{"status":"ok"}'
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        key = (tmp_path / "data" / "state" / "write-key").read_text().strip()
        assert key in banner
        assert (tmp_path / "data" / "state" / "write-key").stat().st_mode & 0o777 == 0o600

        process, banner = self.start(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert key not in banner
        assert key == (tmp_path / "data" / "state" / "write-key").read_text().strip()
