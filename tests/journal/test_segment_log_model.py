"""The segment log against a list: whatever is done to it, it holds what a list would."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from segsrv.journal.log import SegmentLog
from tests.journal.segment_logs import cut_off, drain, journal_files, set_aside

SEGMENT_BYTES_MAX = 120
LINE = st.binary(max_size=60).map(lambda data: data.hex().encode() + b"\n")


def pieces(directory: Path) -> list[Path]:
    return set_aside(directory) + cut_off(directory)


class LogModel(RuleBasedStateMachine):
    """`frames` is the model: (start, end, line) of each frame that must still be readable."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="segment-log-"))
        self.frames: list[tuple[int, int, bytes]] = []
        self.cursor = 0
        self.damaged = 0
        self.log = self.open()

    def open(self) -> SegmentLog:
        return SegmentLog(
            self.directory,
            segment_bytes_max=SEGMENT_BYTES_MAX,
            disk_free_bytes_min=0,
            is_synced=False,
            position_min=self.cursor,
        )

    def reopen(self) -> None:
        self.log.close()
        self.log = self.open()
        self.damaged = 0

    @rule(line=LINE)
    def append(self, line):
        start = self.log.end
        self.log.append(line, 1)
        self.frames.append((start, self.log.end, line))

    @rule()
    def probe(self):
        self.log.probe()

    @rule()
    def restart(self):
        end = self.log.end
        self.reopen()
        assert self.log.end >= max(end, self.cursor)

    @rule(data=st.data(), bytes_max=st.integers(1, 300))
    def read_on(self, data, bytes_max):
        """A reader moves its cursor by whole batches and can read the same range again."""
        batch = self.log.read(self.cursor, bytes_max=bytes_max)
        if batch.end > batch.start:
            size = batch.end - batch.start
            again = self.log.read(batch.start, bytes_max=size, end=batch.end)
            assert again[:2] == batch[:2]
            assert again.lines == batch.lines
        expected = [line for _start, end, line in self.frames if end > batch.start]
        assert batch.lines == b"".join(expected[: batch.events])
        if data.draw(st.booleans(), label="advance"):
            self.cursor = batch.end

    @rule()
    def release(self):
        self.log.release(self.cursor)
        assert self.log.first <= max(self.cursor, self.log.segments[-1].base)
        self.frames = [frame for frame in self.frames if frame[0] >= self.log.first]

    @rule(tail=st.one_of(st.binary(max_size=40), st.integers(1, 40).map(bytes)))
    def crash_with_a_torn_tail(self, tail):
        """Bytes of a commit that never ended are cut off at the next start."""
        self.log.close()
        with journal_files(self.directory)[-1].open("ab") as file:
            file.write(tail)
        end = self.log.end
        self.log = self.open()
        assert self.log.end >= end
        kept = [path.read_bytes() for path in pieces(self.directory)]
        # Zeros at the end are room.
        torn = tail.rstrip(b"\0")
        assert not torn or torn in kept
        self.damaged = self.log.damaged_frames

    @precondition(
        lambda self: (
            self.frames
            and self.frames[-1][1] == self.log.end
            and self.frames[-1][0] >= self.log.segments[-1].base
        )
    )
    @rule(data=st.data())
    def lose_the_last_frame(self, data):
        """A power cut without a sync takes any part of the last frame."""
        start, end, _line = self.frames[-1]
        self.log.close()
        file = journal_files(self.directory)[-1]
        kept = data.draw(st.integers(start, end - 1), label="kept")
        os.truncate(file, kept - int(file.stem))
        del self.frames[-1]
        self.log = self.open()
        self.damaged = 0
        assert self.log.end >= max(start, self.cursor)

    @invariant()
    def everything_is_there(self):
        assert drain(self.log, bytes_max=50) == [line for _start, _end, line in self.frames]
        assert self.log.damaged_frames == self.damaged
        assert self.log.end >= self.cursor

    def teardown(self):
        self.log.close()
        shutil.rmtree(self.directory)


TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
