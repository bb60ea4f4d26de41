"""The parent of several processes, with children that are processes."""

import functools
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import time

import pytest

from segsrv.process.children import RESTART_S_MIN, Child
from segsrv.process.roster import Roster
from segsrv.process.supervisor import Supervisor
from tests.waiting import DEADLINE_S, wait_until

STOP_S_MAX = 30.0
CANNOT_START = 3


class Notes:
    """Lines that several processes append to one file."""

    def __init__(self, path):
        self._path = path
        path.touch()

    def add(self, *words):
        with self._path.open("ab", buffering=0) as file:
            file.write((" ".join(map(str, words)) + "\n").encode())

    def of(self, first_word):
        """Return what follows *first_word* in the lines that begin with it."""
        lines = [line.split(" ") for line in self._path.read_text().splitlines()]
        return [words[1:] for words in lines if words[0] == first_word]

    @property
    def words(self):
        return self._path.read_text().split()


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path / "notes")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def supervise(notes, log):
    """Run a supervisor in a process of its own; at the end of the test it is stopped."""
    processes = []

    def start(*children, **options):
        def run():
            os.setpgid(0, 0)
            logging.basicConfig(filename=log, force=True)
            options["roster"] = Roster(len(children))
            sys.exit(Supervisor(children, lambda: notes.add("all-ready"), **options).run())

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.join(DEADLINE_S)
        assert process.exitcode is not None


def stopped(process, number=signal.SIGTERM) -> int:
    os.kill(process.pid, number)
    process.join(DEADLINE_S)
    return process.exitcode


def until_stopped(notes, name, start) -> int:
    """Do a child's work: nothing, until it is told to stop."""
    stops = {signal.SIGTERM} if name == "delivery" else {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    notes.add("started", name, os.getpid())
    start.on_ready()
    if start.parent_fd is not None:
        signal.sigwait(stops)
    notes.add("stopped", name)
    return 0


def child(notes, name, *, run=until_stopped, **options):
    work = functools.partial(run, notes, name)
    return Child(name, work, **{"stop_s_max": STOP_S_MAX, **options})


def test_the_start_is_announced_when_all_are_ready(supervise, notes):
    """It is announced once, behind every child that is needed, and a stop ends with 0."""
    process = supervise(child(notes, "w0"), child(notes, "w1"))
    wait_until(lambda: "all-ready" in notes.words)
    assert len(notes.of("started")) == 2

    assert stopped(process) == 0
    assert notes.words.count("all-ready") == 1
    assert len(notes.of("stopped")) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_last_child_is_stopped_behind_the_others(supervise, notes, number):
    """Delivery outlives the workers, also where a terminal sends SIGINT to all at once."""

    def slow(notes, name, start):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        start.on_ready()
        signal.sigwait({number})
        # A worker that still answers what it has taken; the other is done at once.
        wait_until(lambda: ["w0"] in notes.of("stopped"))
        notes.add("stopped", name)
        return 0

    process = supervise(
        child(notes, "delivery", is_needed=False, is_last=True),
        child(notes, "w0"),
        child(notes, "w1", run=slow),
    )
    wait_until(lambda: "all-ready" in notes.words and len(notes.of("started")) == 2)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
    process.join(DEADLINE_S)

    assert process.exitcode == 0
    assert notes.of("stopped") == [["w0"], ["w1"], ["delivery"]]


def test_one_that_does_not_stop_is_killed(supervise, notes, log):
    """A child that ignores SIGTERM is killed after its time; the log and the status say so."""

    def deaf(_notes, _name, start):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        start.on_ready()
        while True:
            signal.pause()

    process = supervise(
        child(notes, "w0"),
        child(notes, "w1", run=deaf, stop_s_max=0.1),
        child(notes, "delivery", is_last=True),
    )
    wait_until(lambda: "all-ready" in notes.words)

    assert stopped(process) == 1
    assert "did not stop within 0.1 s, killed name=w1" in log.read_text()
    assert notes.of("stopped") == [["w0"], ["delivery"]]


def test_a_stopped_child_ends_in_order(supervise, notes):
    """One that somebody has halted with SIGSTOP goes on to its end when all are to stop."""
    process = supervise(child(notes, "w0"), child(notes, "w1"))
    wait_until(lambda: "all-ready" in notes.words)
    os.kill(int(dict(notes.of("started"))["w1"]), signal.SIGSTOP)

    assert stopped(process) == 0
    assert sorted(notes.of("stopped")) == [["w0"], ["w1"]]


def test_one_that_dies_is_started_again(supervise, notes):
    """A killed child comes back, the others are not touched, and nothing is announced again."""
    process = supervise(child(notes, "w0"), child(notes, "w1"))
    wait_until(lambda: "all-ready" in notes.words)
    os.kill(int(dict(notes.of("started"))["w1"]), signal.SIGKILL)
    wait_until(lambda: len(notes.of("started")) == 3)

    assert [name for name, _pid in notes.of("started")].count("w0") == 1
    assert stopped(process) == 0
    assert sorted(notes.of("stopped")) == [["w0"], ["w1"]]
    assert notes.words.count("all-ready") == 1


def failing(notes, name, start, status=CANNOT_START):
    notes.add("tried", name, time.monotonic(), start.is_quiet)
    return status


def test_one_that_dies_again_and_again_is_started_less_often(supervise, notes):
    """Each wait is twice as long as the one before, so that a fault costs no processor."""
    supervise(child(notes, "w0"), child(notes, "delivery", run=failing, is_needed=False))
    wait_until(lambda: len(notes.of("tried")) >= 4)

    times_s = [float(words[1]) for words in notes.of("tried")]
    for number, (before_s, after_s) in enumerate(itertools.pairwise(times_s)):
        assert after_s - before_s >= RESTART_S_MIN * 2**number


def test_a_first_start_that_fails_ends_all(supervise, notes):
    """A child that can't start before all were ready ends the server with its status."""
    process = supervise(child(notes, "w0"), child(notes, "w1", run=failing))
    process.join(DEADLINE_S)

    assert process.exitcode == CANNOT_START
    assert "all-ready" not in notes.words


def test_one_that_can_not_start_again_stops_no_other(supervise, notes, log):
    """It is tried until it succeeds, the others go on, and the reason is said once a minute."""

    def once(notes, name, start):
        if len(notes.of("tried")) in (1, 2, 3):
            return failing(notes, name, start)
        notes.add("tried", name)
        return until_stopped(notes, name, start)

    process = supervise(child(notes, "w0"), child(notes, "w1", run=once))
    wait_until(lambda: "all-ready" in notes.words)
    os.kill(int(dict(notes.of("started"))["w1"]), signal.SIGKILL)
    wait_until(lambda: len(notes.of("started")) == 3)

    assert [words[-1] for words in notes.of("tried")[1:4]] == ["False", "True", "True"]
    assert log.read_text().count("starting it again") == 1
    assert [name for name, _pid in notes.of("started")].count("w0") == 1
    assert stopped(process) == 0


def test_an_optional_child_that_fails_stops_no_other(supervise, notes):
    """What is not needed for a start can't prevent it."""
    process = supervise(child(notes, "delivery", run=failing, is_needed=False), child(notes, "w0"))
    wait_until(lambda: "all-ready" in notes.words and len(notes.of("tried")) > 1)

    assert stopped(process) == 0


def test_a_stop_while_one_waits_for_its_next_start(supervise, notes):
    """A child that is not running is not waited for."""
    process = supervise(child(notes, "w0"), child(notes, "d", run=failing, is_needed=False))
    wait_until(lambda: len(notes.of("tried")) > 2)

    assert stopped(process) == 0
    assert notes.of("stopped") == [["w0"]]
