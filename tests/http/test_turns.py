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
    return name


async def in_turn(lane, log, name, steps, sender="sender"):
    async with lane.of(sender):
        return await lane.work(counting(log, name, steps))


async def test_one_works_at_a_time_in_the_order_of_arrival(monkeypatch):
    """A second large request begins when the first is done, though that gives up the loop often."""
    monkeypatch.setattr(turns, "STEP_S", 0)
    log, lane = [], Turns()
    done = await asyncio.gather(*(in_turn(lane, log, name, 3) for name in "abc"))
    assert done == ["a", "b", "c"]
    assert log == [(name, number) for name in "abc" for number in range(3)]


async def test_senders_have_a_turn_each(monkeypatch):
    """A sender with many requests keeps another's waiting for one of them, not for all."""
    monkeypatch.setattr(turns, "STEP_S", 0)
    log, lane = [], Turns()
    await asyncio.gather(
        *(in_turn(lane, log, f"many {number}", 1, "many") for number in range(5)),
        *(in_turn(lane, log, f"few {number}", 1, "few") for number in range(2)),
    )
    assert [name for name, _step in log] == [
        *("many 0", "many 1", "few 0", "many 2", "few 1", "many 3", "many 4")
    ]


async def test_others_run_between_steps(monkeypatch):
    """After each step that was long enough every other task has a round of the loop."""
    monkeypatch.setattr(turns, "STEP_S", 0)
    log, lane = [], Turns()
    large = asyncio.create_task(in_turn(lane, log, "large", 5))
    while not large.done():
        log.append("small")
        await asyncio.sleep(0)
    assert [entry for entry in log if entry != "small"] == [("large", n) for n in range(5)]
    places = [index for index, entry in enumerate(log) if entry != "small"]
    assert all(after - before > 1 for before, after in itertools.pairwise(places))


async def test_short_steps_are_taken_in_a_row(monkeypatch):
    """Steps that take no time do not give up the loop one by one."""
    monkeypatch.setattr(turns, "STEP_S", 60)
    log, lane = [], Turns()
    large = asyncio.create_task(in_turn(lane, log, "large", 100))
    rounds = 0
    while not large.done():
        rounds += 1
        await asyncio.sleep(0)
    assert len(log) == 100
    assert rounds < 5


async def check_that_the_next_one_waits(lane):
    waiting = asyncio.create_task(in_turn(lane, [], "next", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await waiting == "next"


async def test_a_long_step_is_followed_by_a_rest(monkeypatch):
    """After a step that nothing could interrupt, the next large request waits a moment."""
    # Long enough that a busy machine can't make it look like no rest at all.
    monkeypatch.setattr(turns, "REST_SHARE", 1_000)
    monkeypatch.setattr(turns, "REST_S_MAX", 0.5)
    lane = Turns()

    def long_step():
        time.sleep(2 * turns.LONG_STEP_S)
        return "done"
        yield

    async with lane.of("sender"):
        assert await lane.work(long_step()) == "done"
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
        async with lane.of("sender"):
            await lane.work(refused())
    await check_that_the_next_one_waits(lane)


async def test_what_fails_or_is_cancelled_lets_the_next_one_in():
    """An error, or a client that gives up, in its turn or while it waits, holds up nobody."""
    lane = Turns()

    def failing():
        yield
        raise LookupError

    with pytest.raises(LookupError):
        async with lane.of("sender"):
            await lane.work(failing())
    for is_given_the_turn in (False, True):
        async with lane.of("sender"):
            waiting = asyncio.create_task(in_turn(lane, [], "waiting", 1))
            await asyncio.sleep(0)
            if not is_given_the_turn:
                waiting.cancel()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    assert await in_turn(lane, [], "last", 1) == "last"
