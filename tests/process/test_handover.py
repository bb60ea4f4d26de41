"""What one program hands to the next, and who takes it."""

import json
import os

import pytest

from segsrv.errors import SegsrvError, SettingsError
from segsrv.process import handover
from segsrv.process.handover import VARIABLE, Handover, Successor
from segsrv.settings import Settings


@pytest.fixture
def handed(monkeypatch):
    """Give this process what a program has handed over, with some of it changed."""

    def give(**changed):
        described = json.loads(Successor(Settings()).rehearsal_environment()[VARIABLE])
        monkeypatch.setenv(VARIABLE, json.dumps(described | changed))

    return give


def test_an_ordinary_start_finds_nothing(monkeypatch):
    """Without the variable there is nothing to take."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert handover.take() is None


def test_a_rehearsal_is_one_whoever_is_its_parent(handed):
    """The server that asked for it may be gone by then; it must not become a server itself."""
    handed(pid=os.getpid() + 1)
    taken = handover.take()
    assert taken is not None
    assert taken.is_rehearsal


def test_only_the_same_process_takes_over(handed):
    """Files that are another process's are not touched, and it is taken once at most."""
    handed(is_rehearsal=False, pid=os.getpid() + 1)
    assert handover.take() is None
    assert VARIABLE not in os.environ
    handed(is_rehearsal=False, pid=os.getpid(), children={"w0": {"pid": 7}})
    taken = handover.take()
    assert taken is not None
    assert taken.children == {"w0": {"pid": 7}}
    assert handover.take() is None


def test_another_format_is_refused(handed):
    """A release with other shared memory says that it can't take over."""
    handed(format="0.0.0")
    with pytest.raises(SegsrvError, match="can't take over"):
        handover.take()


@pytest.mark.parametrize("changed", [{"workers": 3}, {"port": 1}, {"delivery": "process"}])
def test_what_a_server_is_made_of_can_not_change(changed):
    """Such settings are named; others may be different."""
    before = Handover(fixed=handover.fixed(Settings()))
    before.check(Settings(log_level="warning"))
    with pytest.raises(SettingsError, match=f"{next(iter(changed))}: has changed"):
        before.check(Settings(**changed))
