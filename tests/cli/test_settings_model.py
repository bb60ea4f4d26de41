"""The model: whoever builds Settings or a Key, a value is converted or refused in one line."""

import dataclasses
import datetime as dt
import decimal
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from segsrv import Key, Settings, SettingsError
from segsrv.settings.fields import kinds_of, option, required, settle, table
from segsrv.settings.sources import load

SECRET = "hunter2"


def refused(build, *parts):
    """Return the one line with which *build* is refused; it has all *parts* and no secret."""
    with pytest.raises(SettingsError) as caught:
        build()
    line = str(caught.value)
    assert all(part in line for part in parts), line
    assert "\n" not in line
    assert SECRET not in line
    return line


class TestValues:
    @pytest.mark.parametrize(
        ("values", "parts"),
        [
            ({"correct_timestamps": "false"}, ["correct_timestamps='false'", "true or false"]),
            ({"correct_timestamps": 0}, ["correct_timestamps=0", "true or false"]),
            ({"correct_timestamps": None}, ["correct_timestamps=None", "true or false"]),
            ({"port": "8080"}, ["port='8080'", "whole number"]),
            ({"port": 80.0}, ["port=80.0", "whole number"]),
            ({"port": True}, ["port=True", "whole number"]),
            ({"port": None}, ["port=None", "whole number"]),
            ({"port": -1}, ["port=-1", "0 to 65535"]),
            ({"port": decimal.Decimal(80)}, ["port=", "whole number"]),
            ({"body_timeout_s": "x"}, ["body_timeout_s='x'", "a number"]),
            ({"body_timeout_s": float("nan")}, ["body_timeout_s=nan", "0.1 to 600"]),
            ({"body_timeout_s": float("inf")}, ["body_timeout_s=inf", "0.1 to 600"]),
            ({"body_timeout_s": 10**400}, ["body_timeout_s=1000", "0.1 to 600"]),
            ({"durability": "maybe"}, ["durability='maybe'", "fsync, write, memory"]),
            ({"durability": None}, ["durability=None", "fsync, write, memory"]),
            ({"durability": ["fsync"]}, ["durability=['fsync']", "fsync, write, memory"]),
            ({"host": ""}, ["host=''", "text"]),
            ({"host": "a\nb"}, ["host='a\\nb'", "control"]),
            ({"host": b"a"}, ["host=b'a'", "text"]),
            ({"data_dir": ""}, ["data_dir=''", "path"]),
            ({"data_dir": "  "}, ["data_dir='  '", "path"]),
            ({"data_dir": Path("a\0b")}, ["data_dir=", "path"]),
            ({"data_dir": 1}, ["data_dir=1", "path"]),
            ({"data_dir": None}, ["data_dir=None", "path"]),
            ({"tls_cert": "", "tls_key": ""}, ["tls_cert=''", "path"]),
            ({"bot_words": "bot"}, ["bot_words='bot'", "list"]),
            ({"bot_words": {"bot"}}, ["bot_words", "list"]),
            ({"bot_words": ("bot", "")}, ["bot_words=''", "empty"]),
            ({"bot_words": (1,)}, ["bot_words=1", "text"]),
            ({"geoip_db": "city.mmdb"}, ["geoip_db='city.mmdb'", "list"]),
            ({"geoip_db": ("",)}, ["geoip_db=''", "path"]),
            ({"trusted_proxies": "10.0.0.0/8"}, ["trusted_proxies='10.0.0.0/8'", "list"]),
            ({"trusted_proxies": ("here",)}, ["trusted_proxies=here", "network"]),
            ({"sink": f"kafka://u:{SECRET}@host/topic"}, ["sink", "list"]),
            ({"public_url": "events.example.com"}, ["public_url=events.example.com", "https://"]),
            ({"public_url": "https://"}, ["public_url=https://", "host"]),
            ({"public_url": "https://a:x"}, ["public_url=https://a:x", "host"]),
            ({"public_url": f"https://u:{SECRET}@a"}, ["public_url", "password"]),
            ({"public_url": f"https://a?key={SECRET}"}, ["public_url", "query"]),
            ({"integrations": {"A": 1}}, ["integrations.A", "table"]),
            ({"integrations": [1]}, ["integrations", "table"]),
            ({"integrations": {"A": {"b": {1: 2}}}}, ["integrations.A.b", "JSON"]),
            ({"integrations": {"A": {"b": float("nan")}}}, ["integrations.A.b", "JSON"]),
            ({"integrations": {"A": {"b": 1 << 64}}}, ["integrations.A.b", "JSON"]),
            ({"integrations": {"A": {"b": "\ud800"}}}, ["integrations.A.b", "JSON"]),
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, values, parts):
        """The line names the setting, the value unless it is a secret, and what is expected."""
        refused(lambda: Settings(**values), "expected", *parts)

    def test_what_is_meant_is_taken(self):
        """Paths as text, lists, whole numbers of seconds and tables become what the types say."""
        settings = Settings(
            data_dir="there",
            geoip_db=["a.mmdb", Path("b.mmdb")],
            write_key=["one"],
            body_timeout_s=5,
            tls_cert=None,
            keys=[{"id": "web", "secret": "two", "origins": ["https://a"]}],
            integrations={"A": {"b": [1, None, dt.date(2026, 11, 23)]}},
        )

        assert settings.data_dir == Path("there")
        assert settings.geoip_db == (Path("a.mmdb"), Path("b.mmdb"))
        assert settings.write_key == ("one",)
        assert isinstance(settings.body_timeout_s, float)
        assert settings.keys == (Key(id="web", secret="two", origins=("https://a",)),)
        assert settings.integrations == {"A": {"b": [1, None, "2026-11-23"]}}

    def test_a_setting_does_not_change_with_what_it_was_built_from(self):
        """What a caller does to its list or dict afterwards changes no setting."""
        given = {"A": {"b": [1]}}
        settings = Settings(integrations=given)
        given["A"]["b"].append(2)

        assert settings.integrations == {"A": {"b": [1]}}


class TestKeys:
    @pytest.mark.parametrize(
        ("values", "parts"),
        [
            ({"write_key": SECRET}, ["write_key", "list"]),
            ({"write_key": ("",)}, ["write_key", "expected"]),
            ({"write_key": (" ",)}, ["write_key", "expected"]),
            ({"write_key": (None,)}, ["write_key", "expected"]),
            ({"write_key": (SECRET + " ",)}, ["write_key", "spaces"]),
            ({"write_key": (f"web: {SECRET}",)}, ["write_key", "spaces"]),
            ({"write_key": (f"web:{SECRET}:x",)}, ["write_key", "colons"]),
            ({"write_key": (f"{SECRET}:",)}, ["write_key", "empty"]),
            ({"write_key": (f":{SECRET}",)}, ["write_key", "empty"]),
            ({"write_key": (f"{SECRET}\0",)}, ["write_key", "control"]),
            ({"write_key": (f"{SECRET}\udcff",)}, ["write_key", "control"]),
            ({"write_key": (SECRET * 100,)}, ["write_key", "512"]),
            ({"write_key": (f"same:{SECRET}", "same:b")}, ["'same'", "twice"]),
            ({"write_key": (f"a:{SECRET}", f"b:{SECRET}")}, ["'a' and 'b'", "same secret"]),
            ({"write_key": (f"{SECRET}:{SECRET}",)}, ["an id", "is the secret"]),
            ({"write_key": (f"{SECRET}:x", f"a:{SECRET}")}, ["an id", "is the secret"]),
            ({"keys": {"id": "web", "secret": SECRET}}, ["keys", "[[keys]]"]),
            ({"keys": (SECRET,)}, ["keys.1", "table of id, secret, secrets, origins"]),
            ({"keys": ({"id": "web"},)}, ["keys.web.secret", "missing"]),
            ({"keys": ({"secret": SECRET},)}, ["keys.1.id", "missing"]),
            ({"keys": ({"id": "web", "secret": SECRET, "x": 1},)}, ["keys.web.x", "no such"]),
            ({"keys": ({"id": "web", "secret": [SECRET]},)}, ["keys.web.secret", "text"]),
            (
                {"keys": ({"id": "web", "secret": SECRET, "origins": "https://a"},)},
                ["keys.web.origins='https://a'", "list"],
            ),
        ],
    )
    def test_a_wrong_key_is_refused_without_its_secret(self, values, parts):
        """One text is no list of keys, and a key has an id and a secret that clients can send."""
        refused(lambda: Settings(**values), *parts)

    @pytest.mark.parametrize(
        ("values", "parts"),
        [
            ({"secret": ""}, ["keys.web.secret"]),
            ({"secret": " "}, ["keys.web.secret"]),
            ({"secret": None}, ["keys.web.secret"]),
            ({"secret": SECRET + "\n"}, ["keys.web.secret"]),
            ({"secret": SECRET + "\u00a0"}, ["keys.web.secret", "spaces"]),
            ({"secret": SECRET + ":x"}, ["keys.web.secret", "colons"]),
            ({"id": ""}, ["keys.id"]),
            ({"id": "a:b"}, ["keys.id=a:b", "colons"]),
            ({"id": "a b"}, ["keys.id=a b", "spaces"]),
            ({"id": "a" * 200}, ["keys.id=aaa", "128"]),
            ({"id": None}, ["keys.id=None"]),
            ({"origins": "*"}, ["keys.web.origins='*'", "list"]),
            ({"origins": "https://a"}, ["keys.web.origins='https://a'", "list"]),
            ({"origins": (None,)}, ["keys.web.origins=None"]),
            ({"secrets": (SECRET + "2", "other")}, ["keys.web", "one of the two"]),
            ({"secret": "", "secrets": (SECRET, SECRET)}, ["keys.web.secrets", "another"]),
            ({"secret": "", "secrets": (SECRET, "a b")}, ["keys.web.secrets", "spaces"]),
            ({"secret": "", "secrets": ("",)}, ["keys.web.secrets"]),
            ({"formats": ("xml",)}, ["keys.web.formats="]),
            ({"types": ("click",)}, ["keys.web.types="]),
            ({"rate_events_per_s": -1}, ["keys.web.rate_events_per_s=-1"]),
            ({"rate_events_per_s": 0.0001}, ["keys.web.rate_events_per_s=0.0001"]),
            ({"burst_events": 5}, ["keys.web.burst_events", "no rate_events_per_s"]),
            ({"transform": "module"}, ["keys.web.transform=module", "module:function"]),
            ({"disabled": "no"}, ["keys.web.disabled"]),
        ],
    )
    def test_a_key_by_hand_is_checked_too(self, values, parts):
        """An embedding application builds no key that a client without one would match."""
        refused(lambda: Key(**({"id": "web", "secret": SECRET} | values)), *parts)

    def test_a_key_has_its_secrets_in_both_forms(self):
        """Whichever was given, `secret` is the first of `secrets`, and a copy is made as it is."""
        one = Key(id="web", secret="new")
        two = Key(id="web", secrets=("new", "old"))

        assert (one.secret, one.secrets) == ("new", ("new",))
        assert (two.secret, two.secrets) == ("new", ("new", "old"))
        assert dataclasses.replace(two, disabled=True).secrets == ("new", "old")

    def test_every_secret_of_a_key_is_its_own(self):
        """No other key has one of them, and none is an id."""
        old = Key(id="web", secrets=("new", SECRET))
        for other in (Key(id="b", secret=SECRET), Key(id=SECRET, secret="b")):
            refused(lambda other=other: Settings(keys=(old, other)), "keys")

    def test_secrets_are_not_shown(self):
        """No text form of settings or keys holds a secret, nor the password of a sink."""
        settings = Settings(
            write_key=(SECRET,),
            keys=(Key(id="web", secrets=(SECRET + "2", SECRET + "3")),),
            sink=(f"kafka://u:{SECRET}@host/topic",),
        )
        assert SECRET not in repr(settings) + repr(settings.all_keys())

    def test_ten_thousand_keys_are_checked_at_once(self):
        """Looking for keys that are given twice does not compare each with each."""
        keys = tuple(f"id-{number}:secret-{number}" for number in range(10_000))
        assert len(Settings(write_key=keys).all_keys()) == 10_000


class TestTexts:
    """Flags and variables are texts: they are read by the type of the setting."""

    @pytest.mark.parametrize(
        ("name", "text", "parts"),
        [
            ("correct_timestamps", "maybe", ["=maybe", "true or false"]),
            ("correct_timestamps", "", ["true or false"]),
            ("port", "80x", ["=80x", "whole number"]),
            ("port", "8e1", ["=8e1", "whole number"]),
            ("port", "٨٠", ["whole number"]),
            ("port", "", ["whole number"]),
            ("body_timeout_s", "nan", ["=nan", "number"]),
            ("body_timeout_s", "inf", ["=inf", "number"]),
            ("body_timeout_s", "1e999", ["=1e999", "number"]),
            ("data_dir", "", ["path"]),
            ("tls_cert", "", ["path"]),
            ("host", "", ["text"]),
            ("log_level", "loud", ["=loud", "debug, info, warning, error"]),
        ],
    )
    def test_a_wrong_text_is_refused_where_it_was_found(self, name, text, parts):
        """The line begins with the flag or the variable that holds the text."""
        flag, variable = "--" + name.replace("_", "-"), "SEGSRV_" + name.upper()
        assert refused(lambda: load({name: text}, {}), *parts).startswith(flag)
        assert refused(lambda: load({}, {variable: text}), *parts).startswith(variable)

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("correct_timestamps", "false", False),
            ("correct_timestamps", "TRUE", True),
            ("port", "080", 80),
            ("journal_bytes_max", "10_000_000", 10_000_000),
            ("body_timeout_s", "5", 5.0),
            ("public_url", "", ""),
            ("tls_check_interval_s", "1e1", 10.0),
        ],
    )
    def test_a_right_text_is_what_it_says(self, name, text, value):
        """Flag and variable mean the same."""
        for settings in (load({name: text}, {}), load({}, {"SEGSRV_" + name.upper(): text})):
            assert getattr(settings, name) == value
            assert type(getattr(settings, name)) is type(value)

    def test_an_empty_variable_is_an_empty_list(self):
        """No trusted proxy at all can be said in the environment."""
        assert load({}, {"SEGSRV_TRUSTED_PROXIES": ""}).trusted_proxies == ()

    @pytest.mark.parametrize("text", ["", " ", ",", "a,", ",a", "a,,b"])
    def test_a_key_that_got_lost_on_its_way_is_no_wish_for_none(self, text):
        """An empty variable, or an empty place in one, stops the start: a key is missing there."""
        refused(lambda: load({}, {"SEGSRV_WRITE_KEY": text}), "SEGSRV_WRITE_KEY", "empty")
        refused(lambda: load({"write_key": [""]}, {}), "--write-key", "empty")

    @pytest.mark.parametrize(("flags", "environ"), [({"config": ""}, {}), ({}, {"CONFIG": ""})])
    def test_a_config_without_a_name_is_refused(self, flags, environ):
        """A lost variable in `--config "$FILE"` does not start a server with the defaults."""
        environ = {f"SEGSRV_{name}": text for name, text in environ.items()}
        refused(lambda: load(flags, environ), "empty", "TOML file")

    def test_bytes_that_are_no_text_are_refused(self):
        """An argument of bytes that are not UTF-8 is one line, not a fault when it is printed."""
        text = os.fsdecode(b"data\xff")
        refused(lambda: load({"data_dir": text}, {}), "--data-dir", "control")


class TestTypes:
    """New settings, and tables of them, need a declaration only."""

    def test_types_are_not_told_apart_by_their_spelling(self):
        """An optional number is a number or None, and nothing else."""

        @table
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Limits:
            rate: float | None = option(None, "events a second", low=0, high=1e6)

            def __post_init__(self):
                settle(self)

        kind = kinds_of(Limits)["rate"]
        assert Limits(rate=None).rate is None
        assert Limits(rate=5).rate == 5.0
        assert kind.read("2.5", "--rate") == 2.5
        for wrong in ("not-a-number", "5", float("nan"), -1, True):
            refused(lambda wrong=wrong: Limits(rate=wrong), f"rate={wrong!r}", "a number")
        refused(lambda: kind.read("not-a-number", "--rate"), "--rate=not-a-number", "a number")

    @pytest.mark.parametrize(
        "hint",
        [
            set[str],
            list[str],
            tuple[str, int],
            dict[int, str],
            int | str,
            tuple[str, ...] | None,
            bytes,
            complex,
            object,
            Literal[1, 2],
            "dict",
        ],
        ids=str,
    )
    def test_a_type_that_no_setting_has_fails_where_it_is_declared(self, hint):
        """The error names class, field and type, when the module is imported."""
        cls = dataclasses.make_dataclass("Wrong", [("colour", hint, None)])
        with pytest.raises(TypeError, match=r"Wrong\.colour: "):
            table(cls)

    @pytest.mark.parametrize(
        ("hint", "declared"),
        [
            (str, option("", "", low=1, high=2)),
            (bool, option(False, "", low=0, high=1)),
            (int, option(1, "", low=1)),
        ],
    )
    def test_a_range_that_would_not_be_looked_at_fails_too(self, hint, declared):
        """Only numbers have a range, and it has two ends."""
        cls = dataclasses.make_dataclass("Wrong", [("colour", hint, declared)])
        with pytest.raises(TypeError, match=r"Wrong\.colour: "):
            table(cls)

    def test_a_default_out_of_its_range_fails_too(self):
        """A default that nobody may give is found before a server is started with it."""
        cls = dataclasses.make_dataclass("Wrong", [("rate", int, option(9, "", low=1, high=5))])
        with pytest.raises(SettingsError, match="rate=9"):
            table(cls)

    def test_tables_nest(self):
        """Tables in lists, tables by name and single tables are converted, and errors say where."""

        @table
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Limit:
            events_max: int = option(10, "events a second", low=1, high=100)

            def __post_init__(self):
                settle(self, "limit.")

        @table
        @dataclass(frozen=True, slots=True, kw_only=True)
        class Sink:
            url: str = required("where", is_secret=True)
            limit: Limit | None = option(None, "how much")
            labels: dict[str, str] = field(default_factory=dict)
            more: dict[str, Any] = field(default_factory=dict)

            def __post_init__(self):
                settle(self, "sink.")

        @table
        @dataclass(frozen=True, slots=True, kw_only=True)
        class All:
            sinks: tuple[Sink, ...] = option((), "where events go")
            limits: dict[str, Limit] = field(default_factory=dict)

            def __post_init__(self):
                settle(self)

        built = All(
            sinks=[{"url": "a:", "limit": {"events_max": 5}, "labels": {"x": "y"}}],
            limits={"web": {"events_max": 7}},
        )

        assert built.sinks == (Sink(url="a:", limit=Limit(events_max=5), labels={"x": "y"}),)
        assert built.limits == {"web": Limit(events_max=7)}
        for values, where in (
            ({"sinks": [{"url": "a:"}, {"url": SECRET, "limit": {"events_max": 0}}]}, "sinks.2."),
            ({"sinks": [{"url": 5}]}, "sinks.1.url: expected text"),
            ({"sinks": [{}]}, "sinks.1.url: is missing"),
            ({"sinks": [{"url": "a:", "labels": {"x": 5}}]}, "sinks.1.labels.x=5: expected text"),
            ({"sinks": [{"url": "a:", "labels": {"": "y"}}]}, "sinks.1.labels: a name=''"),
            (
                {"limits": {"web": {"events_max": "7"}}},
                "limits.web.events_max='7': expected a whole",
            ),
            ({"limits": {"web": {"event_max": 7}}}, "limits.web.event_max: there is no such"),
            ({"limits": {"web": 7}}, "limits.web: expected a table of events_max"),
        ):
            refused(lambda values=values: All(**values), where)
