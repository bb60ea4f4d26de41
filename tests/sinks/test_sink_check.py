"""`segsrv check` and `serve` find the same faults of sinks, each in one line."""

import os

import pytest

from tests.command import segsrv
from tests.sinks.packages import WORKING, install

SECRET = "hunter2"
WRONG_SETTINGS, CANNOT_START = 2, 3
TABLE = '[[sinks]]\nname = "other"\nurl = "nowhere://u:hunter2@a"\n'


def with_check(body: str) -> str:
    """Return a package whose sinks run *body* when they are checked."""
    checks = f"    async def check(self):\n            {body}\n\n        async def close(self):\n"
    code = WORKING.replace("    def describe", f"{checks}            pass\n\n        def describe")
    return "\n    import asyncio\n" + code


class TestCheck:
    @pytest.mark.parametrize(
        ("more", "part"),
        [
            ("options.levle = 1", "sinks.other.options: the option 'levle' is unknown"),
            ("options.level = 10", "sinks.other.options.level=10: expected a whole number"),
            ('secrets.password = { env = "A" }', "sinks.other.secrets.password.env=A: there is"),
            ('secrets.password = { file = "a" }', "password.file=a: can't be read: No such file"),
            # It has no writer and never will; nobody waits for one.
            ('secrets.password = { file = "pipe" }', "password.file=pipe: is not a regular file"),
            ('key_ids = ["web"]', "sinks.other.key_ids=web: no key has this id"),
            ('on_full = "wait"', "sinks.other.on_full='wait': expected one of"),
            ('[[sinks]]\nname = "b"\nurl = "nowhere://a"', "sinks.b: its place is given twice"),
        ],
    )
    def test_a_fault_ends_serve_and_check_alike(self, tmp_path, more, part):
        """With the same line and status."""
        install(tmp_path, with_check("pass"))
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "segsrv.toml").write_text(f"{TABLE}{more}\n")
        before = sorted(tmp_path.glob("*"))
        environ = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        ended = [
            segsrv(command, "--config", "segsrv.toml", cwd=tmp_path, **environ)
            for command in ("serve", "check")
        ]

        assert part in ended[0].stderr
        assert ended[0].stderr.count("\n") == 1
        assert SECRET not in ended[0].stderr
        assert [(end.returncode, end.stdout, end.stderr) for end in ended] == [
            (WRONG_SETTINGS, "", ended[0].stderr)
        ] * 2
        assert sorted(tmp_path.glob("*")) == before

    @pytest.mark.parametrize(
        ("body", "part"),
        [
            ("await asyncio.sleep(60)", "sinks.other: no answer within 0.1 s"),
            ("raise TimeoutError('hunter2')", "sinks.other: check failed with TimeoutError at now"),
            ("int('hunter2')", "sinks.other: check failed with ValueError at nowhere.py:"),
        ],
        ids=["hangs", "own_time_out", "fault"],
    )
    def test_a_sink_that_does_not_say_what_it_should_ends_it_too(self, tmp_path, body, part):
        """One line, within the sink's time limit, and no traceback with what it may hold."""
        install(tmp_path, with_check(body))
        timeout_s = 0.1 if "sleep" in body else 60
        (tmp_path / "segsrv.toml").write_text(f"{TABLE}send_timeout_s = {timeout_s}\n")
        ended = segsrv("check", "--config", "segsrv.toml", cwd=tmp_path, PYTHONPATH=str(tmp_path))

        assert ended.returncode == CANNOT_START
        assert part in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert SECRET not in ended.stderr

    def test_all_that_fail_are_said_at_once(self, tmp_path):
        """A line each: nobody has to mend one to hear of the next."""
        body = (
            "raise __import__('segsrv.errors').errors.SinkMisconfigured(self.spec.where + ': no')"
        )
        install(tmp_path, with_check(body))
        more = TABLE.replace("other", "more").replace("@a", "@b")
        (tmp_path / "segsrv.toml").write_text(TABLE + more)
        ended = segsrv("check", "--config", "segsrv.toml", cwd=tmp_path, PYTHONPATH=str(tmp_path))

        assert ended.returncode == CANNOT_START
        assert ended.stderr.splitlines() == ["segsrv: sinks.other: no", "segsrv: sinks.more: no"]

    def test_what_a_sink_warns_of_is_printed(self, tmp_path):
        """It ends nothing: a server would start."""
        install(tmp_path, with_check("return [self.spec.where + ': may double']"))
        (tmp_path / "segsrv.toml").write_text(TABLE)
        ended = segsrv("check", "--config", "segsrv.toml", cwd=tmp_path, PYTHONPATH=str(tmp_path))

        assert ended.returncode == 0
        assert ended.stderr == "segsrv: warning: sinks.other: may double\n"

    def test_all_sinks_are_listed_by_name(self, tmp_path):
        """As in the banner: what each is called, and where it leads to."""
        install(tmp_path, with_check("pass"))
        (tmp_path / "segsrv.toml").write_text('sink = ["file:", "file:x"]\n' + TABLE)
        ended = segsrv("check", "--config", "segsrv.toml", cwd=tmp_path, PYTHONPATH=str(tmp_path))

        assert ended.returncode == 0, ended.stderr
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith("  sinks ")]
        assert line.startswith("  sinks       file (file:data/events), file-")
        assert line.endswith(" (file:x), other (nowhere)")
