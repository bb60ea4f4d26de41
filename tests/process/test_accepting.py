"""Workers share connections by what each says of itself, and rely on none of it."""

import asyncio
import contextlib
import os
import socket

import pytest

from segsrv.process import roster as roster_module
from segsrv.process.accepting import Acceptor
from segsrv.process.roster import PRESENT_S, Roster
from tests.waiting import until

CLIENTS = 20


@pytest.fixture
def roster():
    with contextlib.closing(Roster(3)) as roster:
        yield roster


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


class Held(asyncio.Protocol):
    """Counts itself in *held* while its connection is open."""

    def __init__(self, held):
        self._held = held

    def connection_made(self, transport):
        self._held.append(transport)

    def connection_lost(self, _error):
        self._held.pop()


@contextlib.asynccontextmanager
async def accepting(listener, place, *, more=0, **options):
    """Run an acceptor that seems to have *more* connections than it took."""
    held = []
    acceptor = Acceptor(
        *(listener, lambda: Held(held)),
        count=lambda: more + len(held),
        place=place,
        **{"beginning_max": 100, **options},
    )
    acceptor.start()
    try:
        yield held
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        for transport in held:
            transport.abort()


def clients(listener, stack, count=CLIENTS):
    return [
        stack.enter_context(socket.create_connection(listener.getsockname()))
        for _number in range(count)
    ]


async def test_an_emptier_one_that_takes_none_is_not_waited_for(roster, listener):
    """A worker whose line says that it is empty, and that takes nothing, costs time and no more."""
    roster.places[1].hold(0)
    roster.places[1].beat()
    with contextlib.ExitStack() as stack:
        async with accepting(listener, roster.places[0], more=100) as held:
            clients(listener, stack)
            await until(lambda: len(held) == CLIENTS)


async def test_two_share(roster, listener):
    """Of two at one listener neither takes nearly all, though both are woken for each."""
    with contextlib.ExitStack() as stack:
        for place in roster.places[:2]:
            place.beat()
        # A loop knows one reader of a file, and this test has one loop for both.
        same = stack.enter_context(listener.dup())
        async with (
            accepting(listener, roster.places[0]) as first,
            accepting(same, roster.places[1]) as second,
        ):
            clients(listener, stack)
            await until(lambda: len(first) + len(second) == CLIENTS)
            assert max(len(first), len(second)) <= 1.5 * CLIENTS / 2


async def test_a_closed_one_takes_no_more(roster, listener):
    """Its line is withdrawn, and connections wait for the others."""
    async with accepting(listener, roster.places[0]):
        roster.places[0].beat()
        assert roster.places[1].fewest_of_others() == 0
    assert roster.places[1].fewest_of_others() is None
    with contextlib.ExitStack() as stack:
        clients(listener, stack)
        async with accepting(listener, roster.places[1]) as held:
            await until(lambda: len(held) == CLIENTS)


class TestRoster:
    def test_only_those_present_count(self, roster, monkeypatch):
        """Neither itself, nor one that takes none, nor one that was silent for long."""
        for number, connections in enumerate((1, 5, 7)):
            roster.places[number].hold(connections)
            roster.places[number].beat()
        assert [place.fewest_of_others() for place in roster.places] == [5, 1, 1]
        roster.places[0].leave()
        assert [place.fewest_of_others() for place in roster.places] == [5, 7, 5]
        now_ms = roster_module._now_ms() + int(PRESENT_S * 1_000) + 1
        monkeypatch.setattr(roster_module, "_now_ms", lambda: now_ms)
        roster.places[2].beat()
        assert [place.fewest_of_others() for place in roster.places] == [7, 7, None]

    def test_another_program_finds_what_was_written(self, roster):
        """Memory that is handed on by its file holds the same lines."""
        roster.places[1].hold(3)
        roster.places[1].beat()
        with contextlib.closing(Roster(3, os.dup(roster.memory_fd))) as again:
            assert again.places[0].fewest_of_others() == 3
            again.places[1].clear()
            assert roster.places[1].seen_s == 0
