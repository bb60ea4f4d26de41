"""Journals as delivery sees them."""

from contextlib import closing

from segsrv.board import Board
from segsrv.delivery.source import FollowedSource

ID = "a" * 32


def test_a_worker_that_starts_again_has_the_journal_that_it_had(tmp_path):
    """The board has none for a moment; what is known of the journal stays known."""
    with closing(Board(1)) as board:
        slot = board.worker(0)
        source = FollowedSource("w0", tmp_path, slot, file_mode=0o640)
        assert not source.id
        slot.open(ID, first=0, end=64)
        assert source.id == ID
        slot.close()
        assert source.id == ID
        slot.open("b" * 32, first=0, end=0)
        assert source.id == "b" * 32
