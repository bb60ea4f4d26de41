"""What was refused with 503 stays refused, also when the disk didn't let it be cut off.

A journal is copied while it is open, which is what a kill -9 leaves, and the copy is opened.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest

from segsrv.errors import JournalFault
from segsrv.journal.log import SegmentLog
from segsrv.journal.reader import Reader
from tests.journal.children import run_child
from tests.journal.segment_logs import (
    READ_BYTES,
    drain,
    journal_files,
    opened,
    payload,
    refuse,
    refuse_syncs,
)

pytestmark = pytest.mark.usefixtures("sync_way")

CUT, DELETE = (os, "ftruncate"), (Path, "unlink")
FAULTS = {"sync": [], "sync_and_cut": [CUT], "all": [CUT, DELETE]}
"""What fails beside the sync."""


def append_refused(log: SegmentLog, number: int, monkeypatch, fault: str) -> None:
    with monkeypatch.context() as patch:
        refuse_syncs(patch)
        for owner, name in FAULTS[fault]:
            patch.setattr(owner, name, refuse)
        with pytest.raises(JournalFault, match="Input/output error"):
            log.append(payload(number), 1)


class TestRefusedWrites:
    @pytest.mark.parametrize("before", [0, 1, 3], ids="{}_before".format)
    @pytest.mark.parametrize("refusals", [1, 3], ids="{}_refused".format)
    @pytest.mark.parametrize("later", ["append", "probe"])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_later_write_ends_them(self, tmp_path, monkeypatch, before, refusals, later, fault):
        """After any write that succeeded, what was refused before it is never read again."""
        expected = [payload(number) for number in range(before)]
        with opened(tmp_path / "w0") as log:
            for number in range(before):
                log.append(payload(number), 1)
            for number in range(100, 100 + refusals):
                append_refused(log, number, monkeypatch, fault)
            if later == "append":
                log.append(payload(9), 1)
                expected.append(payload(9))
            else:
                log.probe()
            shutil.copytree(tmp_path / "w0", tmp_path / "killed")
            assert drain(log) == expected
            log.release(log.end)
            assert len(journal_files(tmp_path / "w0")) == 1, "nothing is left behind"

        for _start in range(2):
            with opened(tmp_path / "killed") as log:
                assert drain(log) == expected
                assert (log.damaged_frames, log.torn_tails) == (0, 0)

    @pytest.mark.parametrize("before", [0, 1], ids="{}_before".format)
    def test_without_a_later_write_they_are_unknown(self, tmp_path, monkeypatch, before):
        """When the disk took nothing more until the end, what it was asked for may be there."""
        whole = [payload(number) for number in range(before)]
        with opened(tmp_path / "w0") as log:
            for number in range(before):
                log.append(payload(number), 1)
            append_refused(log, 100, monkeypatch, "all")
            shutil.copytree(tmp_path / "w0", tmp_path / "killed")
            assert drain(log) == whole

        with opened(tmp_path / "killed") as log:
            assert drain(log) in (whole, [*whole, payload(100)])

    @pytest.mark.parametrize("before", [0, 1], ids="{}_before".format)
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_reader_never_sees_them(self, tmp_path, monkeypatch, before, fault):
        """A reader in another process that knew the files before is not led astray either."""
        whole = [payload(number) for number in range(before)]
        reader = Reader(tmp_path)
        with opened(tmp_path) as log:
            for number in range(before):
                log.append(payload(number), 1)
            reader.read(0, bytes_max=READ_BYTES, end=log.end)
            append_refused(log, 100, monkeypatch, fault)
            assert reader.read(0, bytes_max=READ_BYTES, end=log.end).lines == b"".join(whole)
            log.append(payload(9), 1)

            chunk = reader.read(0, bytes_max=READ_BYTES, end=log.end)

        assert chunk.lines == b"".join([*whole, payload(9)])
        assert reader.damaged_frames == 0

    def test_with_a_real_kill(self, tmp_path, sync_way):
        """The same in a process that is killed: the refused event is not delivered."""
        run_child(
            """
            import signal
            import pytest
            from segsrv.errors import JournalFault
            from tests.journal.segment_logs import refuse, refuse_syncs

            log = open_log()
            log.writer.has_dsync = HAS_DSYNC
            with pytest.MonkeyPatch.context() as patch, pytest.raises(JournalFault):
                refuse_syncs(patch)
                patch.setattr(os, "ftruncate", refuse)
                log.append(payload(100), 1)
            log.append(payload(9), 1)
            os.kill(os.getpid(), signal.SIGKILL)
            """.replace("HAS_DSYNC", str(sync_way == "one_call")),
            tmp_path,
            exit_code=-signal.SIGKILL,
        )

        with opened(tmp_path) as log:
            assert drain(log) == [payload(9)]
