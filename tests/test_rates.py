"""Rates of keys: what is in a bucket, and that processes share it whatever becomes of one."""

import contextlib
import fcntl
import os
import signal
import sys

import pytest

from segsrv import rates as rates_module
from segsrv.errors import RateLimited
from segsrv.rates import PROBES_MAX, Rates
from segsrv.settings import Key

SECOND = 1_000_000_000


class Clock:
    def __init__(self):
        self.now_ns = 5 * SECOND

    def __call__(self):
        return self.now_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=[True, False], ids=["shared", "own"])
def rates(request, clock):
    with contextlib.closing(Rates(is_shared=request.param, clock=clock)) as found:
        yield found


def key_of(rate, burst=0, key_id="web"):
    return Key(id=key_id, secret=f"s-{key_id}", rate_events_per_s=rate, burst_events=burst)


def taken(rates, key, *, events=1, tries=1_000):
    """Return how many of *tries* requests of *events* were taken."""
    count = 0
    for _ in range(tries):
        with contextlib.suppress(RateLimited):
            rates.charge(key, events)
            count += 1
    return count


class TestBucket:
    def test_a_burst_and_then_the_rate(self, rates, clock):
        """What is in the bucket is taken at once, then no more than flows into it."""
        key = key_of(10, 50)
        assert taken(rates, key) == 50
        clock.now_ns += SECOND
        assert taken(rates, key) == 10
        clock.now_ns += 1_000 * SECOND
        assert taken(rates, key) == 50

    def test_without_a_burst_it_holds_what_a_second_brings(self, rates):
        """And at least one event, however low the rate."""
        assert taken(rates, key_of(20)) == 20
        assert taken(rates, key_of(0.5, key_id="slow")) == 1

    def test_a_batch_larger_than_the_burst_borrows(self, rates, clock):
        """It is taken as a whole, and what comes next waits until it is paid for."""
        key = key_of(10, 5)
        rates.charge(key, 105)
        with pytest.raises(RateLimited) as caught:
            rates.check(key)
        # 100 are owed, and there has to be one.
        assert caught.value.retry_after_s == 11
        clock.now_ns += 10 * SECOND
        assert taken(rates, key) == 0
        clock.now_ns += SECOND
        rates.check(key)
        assert taken(rates, key) == 5

    def test_what_is_refused_takes_nothing(self, rates, clock):
        """A client that goes on trying waits no longer for it."""
        key = key_of(1, 1)
        assert taken(rates, key, tries=500) == 1
        clock.now_ns += SECOND
        assert taken(rates, key, tries=500) == 1

    def test_a_wait_has_a_limit(self, rates):
        """However large a debt is, a client comes again within the hour."""
        key = key_of(0.001, 1)
        rates.charge(key, 100_000)
        with pytest.raises(RateLimited) as caught:
            rates.check(key)
        assert caught.value.retry_after_s == 3_600

    def test_each_key_has_its_own(self, rates):
        """One that is in debt takes nothing from another."""
        assert taken(rates, key_of(5, key_id="a")) == 5
        assert taken(rates, key_of(7, key_id="b")) == 7

    def test_a_place_that_is_free_again_goes_to_another(self, rates, clock, monkeypatch):
        """Of more keys than places those that are in debt keep theirs."""
        monkeypatch.setattr(rates_module, "_tag", lambda key_id: 1 + int(key_id) * 1_000_000_000)
        monkeypatch.setattr(rates_module, "_places", lambda _tag: range(0, 2 * PROBES_MAX, 2))
        in_debt = key_of(1, 1, "0")
        rates.charge(in_debt, 1_000)
        for number in range(1, 200):
            clock.now_ns += 2 * SECOND
            assert taken(rates, key_of(1, 1, str(number)), tries=3) == 1
        assert taken(rates, in_debt) == 0


class TestProcesses:
    def charge_in_a_child(self, rates, key, events):
        pid = os.fork()
        if pid == 0:
            for _ in range(events):
                with contextlib.suppress(RateLimited):
                    rates.charge(key, 1)
            os._exit(0)
        return pid

    def test_all_processes_take_from_one_bucket(self, clock, monkeypatch):
        """Four that charge at the same time lose no event, and get no more than one would."""
        # None of them is halted, however long it has to wait for a processor.
        monkeypatch.setattr(rates_module, "LOCK_TRIES_MAX", sys.maxsize)
        with contextlib.closing(Rates(clock=clock)) as rates:
            key = key_of(1, 10_000)
            pids = [self.charge_in_a_child(rates, key, 2_000) for _ in range(4)]
            assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
            assert taken(rates, key, tries=5_000) == 2_000

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
    def test_a_process_that_ends_or_halts_holds_up_nobody(self, clock, number):
        """One that is killed leaves the lock, and one that is halted is not waited for."""
        with contextlib.closing(Rates(clock=clock)) as rates:
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                fcntl.lockf(rates.memory_fd, fcntl.LOCK_EX, 1)
                os.write(writing, b".")
                signal.pause()
                os._exit(0)
            os.read(reading, 1)
            os.kill(pid, number)
            if number == signal.SIGKILL:
                os.waitpid(pid, 0)
            try:
                assert taken(rates, key_of(1, 5), tries=20) == 5
            finally:
                if number == signal.SIGSTOP:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                os.close(reading)
                os.close(writing)

    def test_another_program_finds_what_is_owed(self, clock):
        """A restart in place hands the memory on."""
        with contextlib.closing(Rates(clock=clock)) as rates:
            key = key_of(1, 1)
            rates.charge(key, 100)
            with contextlib.closing(Rates(os.dup(rates.memory_fd), clock=clock)) as after:
                assert taken(after, key) == 0
