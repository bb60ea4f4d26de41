"""`[[sinks]]` tables: what they may say, what they come to beside the short form, and secrets."""

import dataclasses
import re

import pytest

from segsrv.errors import SettingsError
from segsrv.settings import Key, Secret, Settings, SinkTable
from segsrv.settings.sink import SECRET_BYTES_MAX
from segsrv.settings.sources import load
from segsrv.sinks.registry import resolve
from segsrv.write_keys import with_file_keys, with_kept_key
from tests.server_process import REPOSITORY

SECRET = "hunter2"
CONFIGURATION = REPOSITORY / "docs" / "configuration.md"


def from_file(tmp_path, text: str) -> Settings:
    config = tmp_path / "segsrv.toml"
    config.write_text(text)
    return load({"config": str(config)}, {})


def refused(build, part: str) -> None:
    """Check that *build* is refused in one line that has *part* and no secret."""
    with pytest.raises(SettingsError) as caught:
        build()
    line = str(caught.value)
    assert part in line
    assert "\n" not in line
    assert SECRET not in line


class TestTables:
    def test_what_a_table_does_not_say_is_what_the_settings_say(self, tmp_path):
        """Limits come from the table, from the settings for all sinks, or are the default."""
        settings = from_file(
            tmp_path,
            """
            flush_bytes_max = 100_000
            flush_interval_s = 2
            sink_retry_s_max = 3
            journal_bytes_max = 4_000_000
            sink = ["file:"]
            write_key = ["web:secret"]

            [[sinks]]
            name = "own"
            url = "file:a"
            batch_events_max = 1
            batch_bytes_max = 70_000
            batch_interval_s = 600
            retry_s_max = 5
            send_timeout_s = 6
            lag_bytes_max = 2_000_000
            on_full = "set_aside"
            encoding = "ndjson"
            types = ["track", "other"]
            key_ids = ["web"]
            options.file_bytes_max = 70_000
            secrets.a = { env = "A" }
            secrets.b = { file = "/b" }

            [[sinks]]
            name = "plain"
            url = "file:b"
            """,
        )
        short, own, plain = settings.all_sinks()

        assert (own.name, own.url) == ("own", "file:a")
        assert (own.batch_events_max, own.batch_bytes_max) == (1, 70_000)
        assert (own.batch_interval_s, own.retry_s_max, own.send_timeout_s) == (600, 5, 6)
        assert (own.lag_bytes_max, own.on_full, own.encoding) == (2_000_000, "set_aside", "ndjson")
        assert (own.types, own.key_ids) == (("track", "other"), ("web",))
        assert own.options == {"file_bytes_max": 70_000}
        assert own.secrets["a"].env == "A"
        assert str(own.secrets["b"].file) == "/b"
        for sink in (short, plain):
            assert (sink.batch_events_max, sink.batch_bytes_max) == (10_000, 100_000)
            assert (sink.batch_interval_s, sink.retry_s_max, sink.send_timeout_s) == (2, 3, 60)
            assert (sink.lag_bytes_max, sink.on_full) == (4_000_000, "refuse")
            assert sink.types == sink.key_ids == ()
        assert (short.name, short.url, plain.name) == ("", "file:", "plain")

    @pytest.mark.parametrize(
        ("sink", "tables", "urls"),
        [
            ((), (), ["file:"]),
            (("file:a",), (), ["file:a"]),
            ((), ("file:b",), ["file:b"]),
            (("file:a", "file:"), ("file:b", "file:c"), ["file:a", "file:", "file:b", "file:c"]),
        ],
    )
    def test_both_forms_are_used_together(self, sink, tables, urls):
        """Only without any sink at all there is the default one."""
        sinks = [{"name": f"n{number}", "url": url} for number, url in enumerate(tables)]
        settings = Settings(sink=sink, sinks=sinks)

        assert [config.url for config in settings.all_sinks()] == urls

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({"name": ""}, "sinks.1.name=''"),
            ({"name": "a/b"}, "sinks.name=a/b: expected at most 40 letters"),
            ({"name": ".a"}, "sinks.name=.a: expected at most 40 letters"),
            ({"name": "ä"}, "sinks.name=ä: expected at most 40 letters"),
            ({"name": "a" * 41}, "sinks.name=" + "a" * 40 + ": expected at most 40 letters"),
            ({"name": 5}, "sinks.1.name=5: expected text"),
            ({"url": ""}, "sinks.a.url: expected text"),
            ({"url": [SECRET]}, "sinks.a.url: expected text"),
            ({"colour": 1}, "sinks.a.colour: there is no such setting"),
            ({"on_full": "wait"}, "sinks.a.on_full='wait': expected one of refuse, set_aside"),
            ({"encoding": "csv"}, "sinks.a.encoding='csv': expected one of ndjson"),
            ({"types": ["click"]}, "sinks.a.types='click': expected one of track, identify"),
            ({"types": "track"}, "sinks.a.types='track': expected a list"),
            ({"key_ids": "web"}, "sinks.a.key_ids='web': expected a list"),
            ({"batch_events_max": 0}, "sinks.a.batch_events_max=0: expected a whole number from 1"),
            ({"batch_bytes_max": 1}, "sinks.a.batch_bytes_max=1: expected a whole number from"),
            ({"batch_interval_s": "1"}, "sinks.a.batch_interval_s='1': expected a number from"),
            ({"send_timeout_s": 0}, "sinks.a.send_timeout_s=0: expected a number from"),
            ({"lag_bytes_max": 1}, "sinks.a.lag_bytes_max=1: expected a whole number from"),
            ({"options": SECRET}, "sinks.a.options: expected a table"),
            ({"options": {"x": float("nan")}}, "sinks.a.options.x: expected what JSON can hold"),
            ({"secrets": {"x": SECRET}}, "sinks.a.secrets.x: expected a table of env, file"),
            ({"secrets": {"x": {}}}, "sinks.a.secrets.x: give env or file, one of the two"),
            (
                {"secrets": {"x": {"env": "A", "file": "b"}}},
                "sinks.a.secrets.x: give env or file, one of the two",
            ),
            ({"secrets": {"x": {"value": SECRET}}}, "sinks.a.secrets.x.value: there is no such"),
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, fields, line):
        """The line names the sink and the field, and never shows a URL, an option or a secret."""
        refused(lambda: Settings(sinks=[{"name": "a", "url": "file:a"} | fields]), line)

    def test_tables_have_a_name_and_a_url(self):
        """Without a name, the table is told by its number."""
        refused(lambda: Settings(sinks=[{"url": "file:"}]), "sinks.1.name: is missing")
        refused(lambda: Settings(sinks=[{"name": "a"}]), "sinks.a.url: is missing")

    def test_a_name_is_given_once(self):
        """Metrics and logs tell sinks by it."""
        tables = [{"name": "a", "url": url} for url in ("file:a", "file:b")]
        refused(lambda: Settings(sinks=tables), "sinks: the name 'a' is given twice")

    def test_it_is_not_shown(self):
        """No text form holds the URL's password or an option."""
        url = f"kafka://u:{SECRET}@host/topic"
        settings = Settings(
            sink=(url,), sinks=[SinkTable(name="a", url=url + "2", options={"x": SECRET})]
        )
        assert SECRET not in repr(settings) + repr(settings.all_sinks())

    @pytest.mark.parametrize("spec", dataclasses.fields(SinkTable), ids=lambda spec: spec.name)
    def test_every_field_is_in_the_docs(self, spec):
        """Each has its row, with its default."""
        section = CONFIGURATION.read_text().partition("\n## Sinks\n")[2].partition("\n## ")[0]
        row = re.search(rf"^\| `{spec.name}` \|.*$", section, re.MULTILINE)

        assert row is not None
        if isinstance(spec.default, int | float | str):
            assert ("| none |" if spec.default == "" else f"`{spec.default}`") in row[0]

    def test_the_example_file_shows_some_that_work(self, tmp_path):
        """Without their comment signs they are read as they are, beside the short form."""
        text = (REPOSITORY / "docs" / "segsrv.toml").read_text()
        before, table, after = text.partition("# [[sinks]]\n")
        settings = from_file(
            tmp_path, before + table[2:] + re.sub("^# ?", "", after, flags=re.MULTILINE)
        )

        assert [sink.name for sink in settings.all_sinks()] == ["", "warehouse", "archive"]


class TestKeyIds:
    def sinks(self, *key_ids: str) -> list[dict]:
        return [{"name": "a", "url": "file:", "key_ids": key_ids}]

    def test_only_ids_of_configured_keys_are_taken(self):
        """A filter by a key that nobody has would let nothing through, and nobody would know."""
        keys = ("web:x", "app:y")
        assert Settings(write_key=keys, sinks=self.sinks("app", "web")).sinks
        refused(
            lambda: Settings(write_key=keys, sinks=self.sinks("wbe")),
            "sinks.a.key_ids=wbe: no key has this id",
        )

    def test_keys_of_a_file_are_known_when_it_is_read(self, tmp_path):
        """And not before."""
        path = tmp_path / "keys"
        path.write_text("web:x\n")
        settings = Settings(write_key_file=path, sinks=self.sinks("web"))
        assert with_file_keys(settings).sinks
        settings = Settings(write_key_file=path, sinks=self.sinks("wbe"))
        refused(lambda: with_file_keys(settings), "sinks.a.key_ids=wbe: no key has this id")

    def test_the_key_that_the_first_start_makes_has_an_id_too(self, tmp_path):
        """Before it is made as well as after."""
        settings = Settings(data_dir=tmp_path, sinks=self.sinks("default"))
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "write-key").write_text("x\n")
        assert with_kept_key(settings).all_keys()
        refused(lambda: Settings(sinks=self.sinks("web")), "sinks.a.key_ids=web: no key")

    def test_a_secret_in_its_place_is_not_shown(self):
        """Somebody took a key's secret for its id."""
        refused(
            lambda: Settings(write_key=(f"web:{SECRET}",), sinks=self.sinks(SECRET)),
            "sinks.a.key_ids: holds the secret of a key; give its id",
        )


class TestSecrets:
    def test_they_are_read_from_a_variable_or_a_file(self, tmp_path):
        """The line end with which editors end a file is no part of it; other spaces are."""
        (tmp_path / "secret").write_bytes(b" a b\r\n")
        (tmp_path / "link").symlink_to("secret")

        assert Secret(env="A").read("x", {"A": SECRET}) == SECRET
        assert Secret(file=tmp_path / "link").read("x", {}) == " a b"

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("missing", "can't be read: No such file"),
            ("folder", "can't be read: Is a directory"),
            ("empty", "is empty"),
            ("long", f"more than {SECRET_BYTES_MAX} bytes"),
            ("binary", "expected UTF-8 text"),
        ],
    )
    def test_a_file_without_one_is_one_line(self, tmp_path, name, part):
        """It names the setting and the file, and nothing of what is in it."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "long").write_text(SECRET * SECRET_BYTES_MAX)
        (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff")
        path = tmp_path / name

        where = "sinks.a.secrets.x"
        refused(lambda: Secret(file=path).read(where, {}), f"{where}.file={path}: {part}")

    def test_a_variable_without_one_is_one_line(self):
        """One that is not set, or empty: it got lost on its way."""
        refused(lambda: Secret(env="A").read("x", {}), "x.env=A: there is no such variable")
        refused(lambda: Secret(env="A").read("x", {"A": ""}), "x.env=A: is empty")


class TestSinksOfKeys:
    def test_only_names_of_sinks_are_taken(self):
        """A key whose events go nowhere would lose them, and nobody would know."""
        sinks = [{"name": "a", "url": "file:"}]
        good = Settings(keys=(Key(id="web", secret="x", sinks=("a",)),), sinks=sinks)
        bad = Settings(keys=(Key(id="web", secret="x", sinks=("a", "b")),), sinks=sinks)
        assert resolve(good)
        refused(lambda: resolve(bad), "keys.web.sinks=b: no sink has this name; there are a")
