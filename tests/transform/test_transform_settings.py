"""Which functions settings put in the way of whose events, and how a wrong one is named."""

import pytest

from segsrv.errors import SettingsError
from segsrv.settings import Key, Settings
from segsrv.settings.sink import SinkTable
from segsrv.transform.configured import check_functions, hello_of
from tests.transform.hostile import module

WRONG = ("mine", "mine:", ":own", "mine.py", "mine:own:other", "mine:a.b", "my-module:own", "a b:c")


@pytest.mark.parametrize("text", WRONG)
def test_what_names_no_function(text):
    """The error names the setting, of the server, the key or the sink."""
    expected = "expected package.module:function"
    with pytest.raises(SettingsError, match=rf"^transform=.*: {expected}"):
        Settings(transform=text)
    with pytest.raises(SettingsError, match=rf"^keys\.web\.transform=.*: {expected}"):
        Key(id="web", secret="secret", transform=text)
    with pytest.raises(SettingsError, match=rf"^sinks\.a\.transform=.*: {expected}"):
        SinkTable(name="a", url="file:", transform=text)


def test_a_function_that_cannot_be_loaded(tmp_path, monkeypatch):
    """Of several, the error names the setting that has the wrong one."""
    monkeypatch.chdir(tmp_path)
    name = module(tmp_path, "def own(event, context):\n    return event\n")
    key = Key(id="web", secret="secret", transform=f"{name}:other")
    settings = Settings(transform=f"{name}:own", keys=(key,))
    with pytest.raises(SettingsError, match=rf"^keys\.web\.transform={name}:other: .*no other"):
        check_functions(settings, settings.all_sinks())
    sink = SinkTable(name="a", url="file:", transform="nothing.here:own")
    settings = Settings(transform=f"{name}:own", sinks=(sink,))
    with pytest.raises(SettingsError, match=r"^sinks\.a\.transform=nothing\.here:own: can't be"):
        check_functions(settings, settings.all_sinks())


def test_the_order_of_functions():
    """The key's comes first and the sink's last; keys of other sinks' filters have none here."""
    keys = (
        Key(id="web", secret="one", transform="of:web"),
        Key(id="app", secret="two"),
        Key(id="box", secret="three", transform="of:box"),
    )
    sink = SinkTable(name="a", url="file:", transform="of:sink", key_ids=("web", "app"))
    settings = Settings(transform="of:server", keys=keys, sinks=(sink,))
    (config,) = settings.all_sinks()
    assert hello_of(settings, config).chains == {
        None: ["of:server", "of:sink"],
        "web": ["of:web", "of:server", "of:sink"],
    }


def test_no_functions_at_all():
    """Without any, no event has something in its way; with a key's, only that key's events do."""
    plain = Settings(keys=(Key(id="web", secret="one"),))
    assert not hello_of(plain, *plain.all_sinks()).has_functions
    of_key = Settings(keys=(Key(id="web", secret="one", transform="of:web"),))
    hello = hello_of(of_key, *of_key.all_sinks())
    assert (hello.concerns("web"), hello.concerns("app")) == (True, False)
