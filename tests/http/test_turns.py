"""Large requests work one at a time, in steps between which the loop serves the others."""

import asyncio
import itertools
import time

import pytest

from segsrv.http import turns
from segsrv.http.turns import Turns


def counting(log, name, steps):
    for number in range(steps):
        log.append((name, number))
        yield


def in_turn(lane, steps, sender="sender"):
    """Return what ends when *steps* have, as they do."""
    done = asyncio.get_running_loop().create_future()

    def to_the_end():
        yield from steps
        done.set_result(None)

    lane.add(sender, to_the_end(), done.set_exception)
    return done


async def test_one_works_at_a_time_in_the_order_of_arrival(monkeypatch):
    """A second large request begins when the first is done, though that gives up the loop often."""
    monkeypatch.setattr(turns, "STEP_S", 1e-9)
    log, lane = [], Turns()
    await asyncio.gather(*(in_turn(lane, counting(log, name, 3)) for name in "abc"))
    assert log == [(name, number) for name in "abc" for number in range(3)]


async def test_senders_have_a_turn_each():
    """A sender with many requests keeps another's waiting for one of them, not for all."""
    log, lane = [], Turns()
    await asyncio.gather(
        *(in_turn(lane, counting(log, f"many {number}", 1), "many") for number in range(5)),
        *(in_turn(lane, counting(log, f"few {number}", 1), "few") for number in range(2)),
    )
    assert [name for name, _step in log] == [
        *("many 0", "few 0", "many 1", "few 1", "many 2", "many 3", "many 4")
    ]


async def test_others_run_between_steps(monkeypatch):
    """After each step that was long enough every other task has a round of the loop."""
    monkeypatch.setattr(turns, "STEP_S", 1e-9)
    log, lane = [], Turns()
    large = in_turn(lane, counting(log, "large", 5))
    while not large.done():
        log.append("small")
        await asyncio.sleep(0)
    assert [entry for entry in log if entry != "small"] == [("large", n) for n in range(5)]
    places = [index for index, entry in enumerate(log) if entry != "small"]
    assert all(after - before > 1 for before, after in itertools.pairwise(places))


async def test_others_run_between_short_requests(monkeypatch):
    """Many requests of one short step share a round only until that is long enough."""
    monkeypatch.setattr(turns, "STEP_S", 1e-9)
    log, lane = [], Turns()
    large = [in_turn(lane, counting(log, name, 1)) for name in "abc"]
    while not all(request.done() for request in large):
        log.append("small")
        await asyncio.sleep(0)
    places = [index for index, entry in enumerate(log) if entry != "small"]
    assert all(after - before > 1 for before, after in itertools.pairwise(places))


async def test_short_steps_are_taken_in_a_row(monkeypatch):
    """Steps that take no time do not give up the loop one by one, whose ever they are."""
    monkeypatch.setattr(turns, "STEP_S", 60)
    log, lane = [], Turns()
    large = [in_turn(lane, counting(log, name, 100)) for name in "abc"]
    rounds = 0
    while not all(request.done() for request in large):
        rounds += 1
        await asyncio.sleep(0)
    assert len(log) == 300
    assert rounds < 5


async def check_that_the_next_one_waits(lane):
    waiting = in_turn(lane, counting([], "next", 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    await waiting


async def test_a_long_step_is_followed_by_a_rest(monkeypatch):
    """After a step that nothing could interrupt, the next large request waits a moment."""
    # Long enough that a busy machine can't make it look like no rest at all.
    monkeypatch.setattr(turns, "REST_SHARE", 1_000)
    monkeypatch.setattr(turns, "REST_S_MAX", 0.5)
    lane = Turns()

    def long_step():
        time.sleep(2 * turns.LONG_STEP_S)
        return
        yield

    await in_turn(lane, long_step())
    await check_that_the_next_one_waits(lane)


async def test_a_refused_request_is_followed_by_a_rest(monkeypatch):
    """After a request that fails, the next large one waits for as long as that one took."""
    monkeypatch.setattr(turns, "LONG_STEP_S", 60)
    monkeypatch.setattr(turns, "REST_S_MAX", 0.5)
    lane = Turns()

    def refused():
        yield
        time.sleep(0.5)
        raise LookupError

    with pytest.raises(LookupError):
        await in_turn(lane, refused())
    await check_that_the_next_one_waits(lane)


async def test_what_fails_lets_the_next_one_in():
    """An error in a turn is told to whose it is, and holds up nobody."""
    lane = Turns()

    def failing():
        yield
        raise LookupError

    failed, last = in_turn(lane, failing()), in_turn(lane, counting([], "last", 1))
    with pytest.raises(LookupError):
        await failed
    await last
