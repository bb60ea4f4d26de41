"""The shared board, with processes that really are others."""

import multiprocessing
import os
import select
import signal

import pytest

from segsrv.board import WAKE_BYTES_MAX, Board, Held

ID, OTHER_ID = "00" * 8 + "ab" * 8, "f1" * 16
DEADLINE_S = 15


@pytest.fixture
def board():
    board = Board(2)
    yield board
    board.close()


def in_a_child(work) -> None:
    """Run *work* in a child and wait until it has ended well."""
    child = forked(work)
    child.join(DEADLINE_S)
    assert child.exitcode == 0


def forked(work):
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def is_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1_000))


class TestJournals:
    def test_what_a_worker_publishes_is_seen_by_its_siblings(self, board):
        """One child writes its slot; the parent and another child read it; other slots stay."""
        in_a_child(lambda: board.worker(1).open(ID, first=7, end=1 << 60))

        def look():
            assert board.worker(1).held() == Held(ID, 7, 1 << 60)
            assert board.worker(0).held() is None

        look()
        in_a_child(look)

    def test_positions_move(self, board):
        """`first` and `end` are moved on alone; the journal stays the same."""

        def work():
            slot = board.worker(0)
            slot.open(ID, first=0, end=0)
            slot.first, slot.end = 10, 20

        in_a_child(work)

        assert board.worker(0).held() == Held(ID, 10, 20)
        assert (board.worker(0).first, board.worker(0).end) == (10, 20)

    def test_a_killed_worker_leaves_what_it_published(self, board):
        """What was acknowledged before a kill -9 is still there to be delivered."""

        def work():
            board.worker(0).open(ID, first=0, end=30)
            os.kill(os.getpid(), signal.SIGKILL)

        child = forked(work)
        child.join(DEADLINE_S)

        assert child.exitcode == -signal.SIGKILL
        assert board.worker(0).held() == Held(ID, 0, 30)

    def test_a_closed_journal_is_not_shown(self, board):
        """After an orderly end nothing more is to be had from the worker's journal."""
        slot = board.worker(0)
        slot.open(ID, first=0, end=30)
        slot.close()

        assert slot.held() is None

    def test_no_reader_sees_half_of_a_journal(self, board):
        """While a worker opens one journal after the other, id and positions fit together."""
        slot = board.worker(0)
        slot.open(ID, first=1, end=1)

        def work():
            for _time in range(20_000):
                slot.open(OTHER_ID, first=2, end=2)
                slot.open(ID, first=1, end=1)

        child = forked(work)
        seen = set()
        while child.exitcode is None:
            seen.add(slot.held())
        assert seen <= {None, Held(ID, 1, 1), Held(OTHER_ID, 2, 2)}
        assert len(seen) > 1


class TestReleased:
    def test_delivery_says_what_may_go(self, board):
        """Nothing may go before delivery said so; then what it said."""
        slot = board.worker(1)
        assert slot.released(ID) == 0

        in_a_child(lambda: slot.release(ID, 40))

        assert slot.released(ID) == 40
        assert board.worker(0).released(ID) == 0

    def test_of_another_journal(self, board):
        """A journal that was begun anew deletes nothing for what the old one had delivered."""
        slot = board.worker(0)
        slot.release(ID, 40)
        assert slot.released(OTHER_ID) == 0

        slot.release(OTHER_ID, 5)
        assert (slot.released(ID), slot.released(OTHER_ID)) == (0, 5)


class TestWaking:
    def test_delivery_that_waits_is_woken(self, board):
        """A wake-up from another process makes the pipe readable, until it is cleared."""
        board.is_waiting = True
        in_a_child(board.wake)

        assert is_readable(board.wake_fd, DEADLINE_S)
        board.clear_wake()
        assert not is_readable(board.wake_fd, 0)

    def test_delivery_that_is_at_work_costs_no_call(self, board):
        """Nothing is written while nobody waits for it."""
        in_a_child(board.wake)

        assert not is_readable(board.wake_fd, 0)

    def test_a_full_pipe_stops_no_worker(self, board):
        """A delivery process that hangs or is dead lets the workers go on."""
        board.is_waiting = True
        for _time in range(WAKE_BYTES_MAX + 10):
            board.wake()

        assert is_readable(board.wake_fd, 0)
        board.clear_wake()
        assert not is_readable(board.wake_fd, 0)


def test_a_full_sink_is_seen_by_all(board):
    """Which sink is full goes from delivery to every worker, and is taken back."""
    assert board.sinks_full == 0
    in_a_child(lambda: setattr(board, "sinks_full", 3))
    assert board.sinks_full == 3
    board.sinks_full = 0
    assert board.sinks_full == 0
