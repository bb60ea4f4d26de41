"""Log lines: one line each whatever is in them, and a field for each value where that is asked."""

import ast
import io
import json
import logging
import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segsrv import logs
from segsrv.logs import FieldsFormatter, JsonFormatter, LineFormatter
from tests.server_process import REPOSITORY
from tests.site import KEY, new_id

REJECTED = ("sink: rejected sink=%s events=%d error=%s", "warehouse", 3, "too long")
HOSTILE = '/a\n"b"\\ \x1b[2J\u2028\x00 level=error msg="forged" é\ud800'
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')
HEAD = {"time": "2026-01-02T03:04:05.678Z", "level": "error", "logger": "segsrv.a"}


def record(message, *values, exc_info=None):
    made = logging.LogRecord("segsrv.a", logging.ERROR, "a.py", 1, message, values, exc_info)
    made.created, made.msecs = 1_767_323_045.678, 678.0
    return made


def read_logfmt(line):
    """Read a line of logfmt as its readers do: it is made of pairs, and of nothing else."""
    found = {}
    at = 0
    while at < len(line):
        pair = PAIR.match(line, at)
        assert pair is not None, line[at:]
        name, value = pair.groups()
        assert name not in found
        found[name] = json.loads(value) if value.startswith('"') else value
        at = pair.end()
    return found


def said(message, *values):
    """Return what JSON says of a record beside its head."""
    fields = json.loads(JsonFormatter().format(record(message, *values)))
    return {name: value for name, value in fields.items() if name not in HEAD}


class TestFormats:
    def test_text_has_all_in_one_field(self):
        """As it always was."""
        assert LineFormatter().format(record(*REJECTED)) == (
            "time=2026-01-02T03:04:05.678Z level=error logger=segsrv.a "
            'message="sink: rejected sink=warehouse events=3 error=too long"'
        )

    def test_logfmt_has_a_field_for_each_value(self):
        """The fixed part of the message stands before them."""
        assert FieldsFormatter().format(record(*REJECTED)) == (
            "time=2026-01-02T03:04:05.678Z level=error logger=segsrv.a "
            'msg="sink: rejected" sink=warehouse events=3 error="too long"'
        )

    def test_json_has_the_same_fields(self):
        """Numbers are numbers."""
        assert json.loads(JsonFormatter().format(record(*REJECTED))) == {
            **HEAD,
            "msg": "sink: rejected",
            "sink": "warehouse",
            "events": 3,
            "error": "too long",
        }

    @pytest.mark.parametrize("formatter", [FieldsFormatter, JsonFormatter, LineFormatter])
    def test_a_traceback_is_in_the_line(self, formatter):
        """It is one field, with its ends of lines escaped."""
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            line = formatter().format(record("failed", exc_info=sys.exc_info()))
        fields = json.loads(line) if formatter is JsonFormatter else read_logfmt(line)

        assert line.isprintable()
        assert fields["trace"].startswith("Traceback (most recent call last):\n")
        assert "ValueError: /a\n" in fields["trace"]


class TestFields:
    @pytest.mark.parametrize(
        ("message", "values", "expected"),
        [
            ("stopping", (), {"msg": "stopping"}),
            ("100% full", (), {"msg": "100% full"}),
            ("at 100%% now=%d", (1,), {"msg": "at 100%", "now": 1}),
            ("a b=%s: %s", ("x", "why"), {"msg": "a", "b": "x", "detail": "why"}),
            (
                "journal: takes no events: %s",
                ("full",),
                {"msg": "journal: takes no events", "detail": "full"},
            ),
            (
                "cursor: damaged, %s file=%s",
                ("gone", "f"),
                {"msg": "cursor: damaged, gone", "file": "f"},
            ),
            (
                "request: %s=%r is not one of %s",
                ("p", "x", "a, b"),
                {"msg": "request: p='x' is not one of a, b"},
            ),
            (
                "slow eta_s=%s speed=%.0f part=%.2f",
                ("unknown", 7.4, 0.5),
                {"msg": "slow", "eta_s": "unknown", "speed": 7, "part": 0.5},
            ),
            ("took s=%.0f", (float("nan"),), {"msg": "took", "s": "nan"}),
            ("again level=%s level=%s", (1, 2), {"msg": "again", "level_": "1", "level__": "2"}),
            ("width %*d", (5, 1), {"msg": "width     1"}),
            ("by name %(a)s", ({"a": 1},), {"msg": "by name 1"}),
        ],
        ids=[
            *("no_value", "a_percent_sign", "an_escaped_one", "a_detail", "only_a_detail"),
            *("unnamed", "a_name_that_is_a_value", "numbers", "no_number", "names_of_the_line"),
            *("a_width", "a_mapping"),
        ],
    )
    def test_templates(self, message, values, expected):
        """Named values are fields, and the others stay where they are."""
        assert said(message, *values) == expected

    @pytest.mark.parametrize("values", [(), (1,), (1, 2, 3)], ids=["none", "few", "many"])
    def test_values_that_do_not_fit_make_a_line(self, values):
        """A library's mistake is told as far as it goes."""
        assert said("a=%s b=%s", *values)["msg"].startswith("a=%s b=%s")

    def test_every_message_has_a_fixed_part(self):
        """What each call of the program says is more than its values, so that it can be counted."""
        templates = list(_templates())
        assert len(templates) > 50
        for template in templates:
            parsed = logs._parsed(template)
            assert parsed.text is not None, template
            assert re.search("[a-z]{4}", parsed.text), template
            names = [name for name, _how, _at in parsed.fields]
            assert not any(name.endswith("_") for name in names), template


def _templates():
    for path in (REPOSITORY / "segsrv").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger")),
                    args=[ast.Constant(value=str(template)), *_],
                ):
                    yield template


class TestHostileText:
    @given(st.text(st.characters()))
    @example(HOSTILE)
    def test_it_stays_one_value_of_one_line(self, text):
        """Both formats can be read, and no value becomes a field or a line of its own."""
        made = record("refused path=%s count=%d: %s", text, 1, text)
        shown = text.encode("utf-8", "backslashreplace").decode()
        for formatter, read in ((FieldsFormatter(), read_logfmt), (JsonFormatter(), json.loads)):
            line = formatter.format(made)
            assert line.isprintable()
            assert line.encode().decode() == line
            fields = read(line)
            assert fields.keys() == {*HEAD, "msg", "path", "count", "detail"}
            assert (fields["msg"], fields["path"], fields["detail"]) == ("refused", shown, shown)
        assert line.isascii()

    def test_a_stream_of_any_encoding_takes_json(self):
        """What stderr can't encode would be written in a way that JSON does not know."""
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter())
        handler.handle(record("a=%s", "é\U0001f600"))
        stream.flush()
        line = json.loads(stream.buffer.getvalue())
        assert line["a"] == "é\U0001f600"


@pytest.mark.parametrize(
    ("line_format", "read"), [("logfmt", read_logfmt), ("json", json.loads)], ids=["logfmt", "json"]
)
def test_a_server_writes_them(start_server, line_format, read):
    """Each line of a server and its workers is of the format, and no secret is in any of them."""
    site = start_server("--workers=2", f"--log-format={line_format}")
    assert site.post({"type": "track", "messageId": new_id()}, key="nobody").status == 401
    assert site.get(f"/elsewhere/{KEY}/%0Alevel=error").status == 404
    site.process.stop()
    lines = [read(line) for line in site.process.stderr.splitlines()]

    (refused,) = [line for line in lines if line.get("code") == "unauthorized"]
    assert refused["msg"] == "refused"
    assert str(refused["status"]) == "401"
    assert refused["path"] == "batch"
    assert {str(line.get("worker")) for line in lines if line["msg"] == "started"} == {"0", "1"}
    assert KEY not in site.process.stderr
    assert [line for line in lines if line["level"] == "error"] == []
