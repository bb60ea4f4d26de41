"""Kinds of sinks: found by their scheme, built in or brought by a package, asked in one way."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segsrv.errors import SettingsError
from segsrv.settings import Settings
from segsrv.sinks import registry
from tests.sinks.packages import WORKING, install

SECRET = "hunter2"


@pytest.fixture
def site_packages(tmp_path, monkeypatch) -> Iterator[Path]:
    """Return a folder that packages are found in; what was imported from it is forgotten."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def table(name: str = "other", url: str = "nowhere:a", **fields) -> dict:
    return {"name": name, "url": url, **fields}


def resolve(*tables: dict, sink: tuple[str, ...] = ()) -> list[registry.Named]:
    return registry.resolve(Settings(sink=sink, sinks=tables))


def refused(ask: Callable[[], object], *parts: str) -> str:
    """Return the one line with which settings are refused; it has all *parts* and no secret."""
    with pytest.raises(SettingsError) as caught:
        ask()
    line = str(caught.value)
    assert all(part in line for part in parts), line
    assert "\n" not in line
    assert SECRET not in line
    return line


class TestPackages:
    def test_a_kind_is_brought_by_an_installed_package(self, site_packages):
        """Its scheme can be used in both forms, and the sink gets what it was asked with."""
        install(site_packages)
        settings = Settings(
            sink=("nowhere:b",),
            sinks=[table(options={"level": 3}, secrets={"password": {"env": "PASSWORD"}})],
        )
        short, named = registry.build(settings, {"PASSWORD": SECRET})

        assert short.name.startswith("nowhere-")
        assert short.sink.spec.options.level == 1
        assert named.name == named.sink.spec.name == "other"
        assert named.sink.spec.options.level == 3
        assert named.sink.spec.secrets == {"password": SECRET}
        assert named.sink.spec.settings is settings
        assert SECRET not in repr(named) + repr(named.sink.spec)

    def test_one_that_nobody_names_is_not_imported(self, site_packages):
        """A package that is installed and broken does no harm to those that don't use it."""
        install(site_packages, "raise SystemExit('imported')")

        assert [named.name for named in registry.resolve(Settings())] == ["file"]
        assert "nowhere" not in sys.modules

    def test_a_built_in_kind_stays_what_it_is(self, site_packages):
        """No package can take the events that were meant for files."""
        install(site_packages, "raise SystemExit('imported')", package="thief", scheme="file")
        (built,) = registry.build(Settings(), {})

        assert type(built.sink).__module__ == "segsrv.sinks.file.sink"

    @pytest.mark.parametrize(
        ("code", "parts"),
        [
            ("import missing_driver", ["can't be loaded", "missing_driver"]),
            ("1 / 0", ["can't be loaded", "ZeroDivisionError"]),
            ("SOMETHING = 1", ["can't be loaded", "KIND"]),
            ("KIND = print", ["nowhere:KIND is no segsrv.sinks.Kind"]),
            (WORKING.replace('"nowhere", "noplace"', '"noplace",'), ["is for noplace only"]),
            (WORKING.replace("is_quiet: bool", "is_quiet: bytes"), ["Options.is_quiet", "bytes"]),
        ],
        ids=["dependency", "fault", "no_attribute", "no_kind", "other_scheme", "options"],
    )
    def test_a_broken_package_is_one_line(self, site_packages, code, parts):
        """It names the setting, the kind and the package."""
        install(site_packages, code)

        head = "sinks.other: the kind 'nowhere' of nowhere 1.0"
        assert refused(lambda: resolve(table()), *parts).startswith(head)

    def test_two_packages_for_one_scheme_are_refused(self, site_packages):
        """Which one would get the events is nothing to guess."""
        install(site_packages)
        install(site_packages, package="no-where")

        refused(lambda: resolve(table()), "'nowhere'", "no-where 1.0 and by nowhere 1.0")

    @pytest.mark.parametrize(
        ("url", "part"),
        [
            (f"nats://u:{SECRET}@host/topic?x={SECRET}", "sink=nats://host/topic: unknown kind"),
            (f"nats://u:p/{SECRET}@host/topic", "sink=nats://host/topic: unknown kind"),
            (f"nats://u:p?{SECRET}@host/topic", "sink=nats://host/topic: unknown kind"),
            (f"nats://u:p#{SECRET}@host/topic", "sink=nats://host/topic: unknown kind"),
            (f"nats:/u:{SECRET}@host/topic", "sink=nats:host/topic: unknown kind"),
            (f"nats:u:{SECRET}@[host/topic", "sink=nats:[host/topic: unknown kind"),
            (f"nats://{SECRET}@u@host", "sink=nats://host: unknown kind 'nats'"),
            (f"{SECRET}@host", "sink=host: expected a URL"),
        ],
    )
    def test_an_unknown_kind_is_named_without_the_password(self, site_packages, url, part):
        """However the URL is misspelled; what is there to choose from is said."""
        install(site_packages)

        line = refused(lambda: resolve(sink=(url,)), part)
        assert "URL" in line or "nowhere, " in line

    @pytest.mark.parametrize(
        "functions",
        [
            "place=lambda spec: int(spec.url), make=Nowhere",
            "place=lambda spec: 'a', make=lambda spec: int(spec.url)",
        ],
        ids=["place", "make"],
    )
    def test_a_fault_in_a_kind_is_one_line_without_its_text(self, site_packages, functions):
        """It says where the fault is; its text, as of a port that is none, may hold a password."""
        install(site_packages, WORKING + f"\n    KIND = Kind(schemes=('nowhere',), {functions})\n")
        settings = Settings(sinks=[table(url=f"nowhere://u:{SECRET}@host")])

        line = refused(
            lambda: registry.build(settings, {}),
            "sinks.other: its kind failed with ValueError at nowhere.py:",
        )
        assert line.rpartition(":")[2].isdecimal()


class TestOptions:
    def test_they_are_said_in_the_table_and_in_the_url(self, site_packages):
        """Each is read as its type asks, and the rest is the kind's default."""
        install(site_packages)
        url = "nowhere:a?level=7&tags=a&tags=b&is_quiet=yes"
        ((short,), (named,)) = resolve(sink=(url,)), resolve(table(options={"mode": "slow"}))
        both = resolve(table(url="nowhere:a?level=2", options={"mode": "slow"}))[0]

        assert short.spec.url == "nowhere:a"
        options = short.spec.options
        assert (options.level, options.mode) == (7, "fast")
        assert (options.tags, options.is_quiet) == (("a", "b"), True)
        assert (named.spec.options.level, named.spec.options.mode) == (1, "slow")
        assert (both.spec.options.level, both.spec.options.mode) == (2, "slow")

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            (
                {"options": {"levle": SECRET}},
                "sinks.other.options: the option 'levle' is unknown, expected level, mode, tags, ",
            ),
            ({"options": {"level": 10}}, "sinks.other.options.level=10: expected a whole number"),
            ({"options": {"level": "1"}}, "sinks.other.options.level='1': expected a whole"),
            ({"options": {"mode": "odd"}}, "sinks.other.options.mode='odd': expected one of fast"),
            ({"options": {"tags": "a"}}, "sinks.other.options.tags='a': expected a list"),
            ({"url": "nowhere:a?level=x"}, "sinks.other.options.level=x: expected a whole"),
            ({"url": "nowhere:a?level=10"}, "sinks.other.options.level=10: expected a whole"),
            ({"url": "nowhere:a?level=1&level=2"}, "sinks.other.options: the parameter 'level' is"),
            ({"url": "nowhere:a?levle=1"}, "sinks.other.options: the parameter 'levle' is unknown"),
            (
                {"url": "nowhere:a?level=1", "options": {"level": 1}},
                "sinks.other.options.level: is in the URL, too",
            ),
            ({"url": "nowhere:a?" + "level=1&" * 101}, "sinks.other.options: more than 100 param"),
            ({"url": f"nowhere://u:p?{SECRET}@host"}, "sinks.other: expected %3F, %23 and %40"),
            ({"url": f"nowhere://u:p#{SECRET}@host"}, "sinks.other: expected %3F, %23 and %40"),
            (
                {"secrets": {"passwrod": {"env": "A"}}},
                "sinks.other.secrets: 'passwrod' is unknown, expected password",
            ),
        ],
    )
    def test_a_wrong_one_is_refused_by_name(self, site_packages, fields, line):
        """Before a sink is made, and in the words that other settings have."""
        install(site_packages)

        assert refused(lambda: resolve(table(**fields))).startswith(line)

    def test_a_kind_without_options_says_so(self, site_packages):
        """Nothing that a table says is left out in silence."""
        install(site_packages, WORKING.replace("options=Options,", ""))

        refused(lambda: resolve(table(options={"level": 1})), "'level' is unknown, expected none")

    def test_files_take_the_settings_that_a_table_does_not_have(self, tmp_path):
        """One file sink may have longer files than the others; a path may hold a question mark."""
        url = f"file:{tmp_path}/what?level=1"
        tables = [table("long", url, options={"file_bytes_max": 1 << 30}), table("short", "file:")]
        long, short = registry.build(Settings(file_bytes_max=1 << 20, sinks=tables), {})

        assert long.sink._file_bytes_max == 1 << 30
        assert short.sink._file_bytes_max == 1 << 20
        assert long.sink.describe() == url
        refused(lambda: resolve(table(url="file:", options={"x": 1})), "expected file_bytes_max")


class TestPlaces:
    @pytest.mark.parametrize(
        ("sink", "tables", "parts"),
        [
            (("nowhere:a", "nowhere:a?level=2"), (), ["sink=nowhere:a: its place", "sink=nowhere"]),
            (("nowhere:a",), (table(),), ["sinks.other: its place is given twice", "sink=nowhere"]),
            ((), (table(), table("one")), ["sinks.one: its place", "other time by sinks.other"]),
            ((), (table(), table("one", "nowhere:u@a")), ["sinks.one: its place", "sinks.other"]),
            (("file:",), (table("file", "file:x"),), ["sinks.file: is called 'file', as sink="]),
        ],
    )
    def test_two_to_one_place_or_with_one_name_are_refused(
        self, site_packages, sink, tables, parts
    ):
        """In whatever form they are given; both are named."""
        install(site_packages)

        refused(lambda: resolve(*tables, sink=sink), *parts)

    def test_places_of_two_kinds_are_two(self, site_packages):
        """A path that is a table's name elsewhere is no clash."""
        install(site_packages)
        place = str(site_packages / "x")

        assert len(resolve(table(url=f"nowhere:{place}"), sink=(f"file:{place}",))) == 2


class TestCursors:
    """The name of what is kept of a sink's progress."""

    def cursor(self, **fields) -> str:
        (named,) = resolve(table(**fields))
        return named.cursor_name

    def test_it_belongs_to_the_name_and_the_place(self, site_packages):
        """With another of the two it is another; limits, options and passwords change nothing."""
        install(site_packages)
        first = self.cursor(url="nowhere:a")

        assert self.cursor(url=f"nowhere:u:{SECRET}@a?level=2", batch_events_max=5) == first
        assert len({first, self.cursor(url="nowhere:b"), self.cursor(name="else")}) == 3
        assert first.startswith("other-")

    def test_a_table_with_the_name_of_the_short_form_goes_on_where_that_stopped(
        self, tmp_path, monkeypatch
    ):
        """So that nothing is delivered again when somebody begins to use tables."""
        monkeypatch.chdir(tmp_path)
        for url in ("file:", "file:out"):
            (short,) = resolve(sink=(url,))
            assert short.cursor_name == short.name
            assert self.cursor(name=short.name, url=url) == short.name
            assert self.cursor(name=short.name, url="file:elsewhere") != short.name

    def test_every_spelling_of_a_scheme_has_the_name_of_the_kind(self, site_packages):
        """A kind that has two schemes is found under both, if its package says so."""
        install(site_packages)
        install(site_packages, package="second", scheme="noplace")
        (site_packages / "second.py").write_text("from nowhere import KIND\n")
        (first,), (second,) = resolve(sink=("nowhere:a",)), resolve(sink=("noplace:a",))

        assert first.cursor_name == second.cursor_name
