"""Deleting what is delivered: whoever waits for a commit does not wait for that."""

import asyncio
import os
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from segsrv.journal import freeing
from segsrv.journal.log import SegmentLog
from tests.journal.segment_logs import committing, journal_files
from tests.waiting import DEADLINE_S, until

FILES = 7


@asynccontextmanager
async def seven_files(directory):
    """Run a group commit whose journal has a file for each of seven events."""
    log = SegmentLog(
        directory / "journal", segment_bytes_max=1, disk_free_bytes_min=0, is_synced=False
    )
    commit = committing(log, directory)
    try:
        for number in range(FILES):
            await commit.store([b"%d\n" % number], [])
        assert len(journal_files(log.directory)) == FILES
        yield commit
    finally:
        async with asyncio.timeout(DEADLINE_S):
            await commit.close()


def open_segments() -> list[str]:
    targets = []
    for fd in Path("/proc/self/fd").iterdir():
        # The folder's own is gone by then.
        with suppress(OSError):
            targets.append(str(fd.readlink()))
    return [target for target in targets if "segment (deleted)" in target]


async def test_a_commit_does_not_wait_until_the_space_is_free(tmp_path, monkeypatch):
    """The kernel frees a file for whoever closes it last; events are stored meanwhile."""
    closing, go_on, close = threading.Event(), threading.Event(), freeing._close

    def wait_and_close(kept):
        closing.set()
        assert go_on.wait(DEADLINE_S)
        close(kept)

    monkeypatch.setattr(freeing, "_close", wait_and_close)
    async with seven_files(tmp_path) as commit:
        releasing = asyncio.create_task(commit.release(commit.log.end, retention_s=0.0))
        try:
            await until(closing.is_set)
            assert open_segments()
            async with asyncio.timeout(DEADLINE_S):
                await commit.store([b"more\n"], [])
            assert not releasing.done()
        finally:
            go_on.set()
        await releasing
    assert open_segments() == []


async def test_a_release_that_is_given_up_keeps_no_file_open(tmp_path):
    """A deleted file that stays open takes its space for as long."""
    async with seven_files(tmp_path) as commit:
        for _again in range(FILES):
            releasing = asyncio.create_task(commit.release(commit.log.end, retention_s=0.0))
            await asyncio.sleep(0)
            releasing.cancel()
            await asyncio.wait([releasing])
        await until(lambda: not open_segments())
        await commit.release(commit.log.end, retention_s=0.0)
        assert len(journal_files(commit.log.directory)) == 1


@pytest.mark.parametrize("what", ["pipe", "folder", "nothing"])
async def test_what_took_the_place_of_a_file(tmp_path, what):
    """A pipe that nobody writes to holds nothing up, and events are stored on."""
    async with seven_files(tmp_path) as commit:
        oldest = journal_files(commit.log.directory)[0]
        oldest.unlink()
        if what == "pipe":
            os.mkfifo(oldest)
        elif what == "folder":
            oldest.mkdir()
        async with asyncio.timeout(DEADLINE_S):
            await commit.release(commit.log.end, retention_s=0.0)
            await commit.store([b"more\n"], [])
        assert open_segments() == []
