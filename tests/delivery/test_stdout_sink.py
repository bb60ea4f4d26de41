"""Standard output as a sink: whole lines, one process at a time, and nobody waits for a reader."""

import asyncio
import fcntl
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segsrv.errors import SettingsError, SinkClosed, SinkMisconfigured, SinkUnavailable
from segsrv.settings import Settings
from segsrv.sinks import registry
from segsrv.sinks.stdout import kind as stdout_kind
from segsrv.sinks.stdout.sink import StdoutSink
from tests.delivery.pipes import Pipe, Reader
from tests.delivery.stdout_writer import BATCHES
from tests.delivery.stored_files import batch, of_lines
from tests.server_process import REPOSITORY
from tests.waiting import until, wait_until

PIPE_BYTES = 64 << 10


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
async def sink(tmp_path, pipe):
    sink = StdoutSink(tmp_path / "state" / "stdout.lock", fd=pipe.writer)
    await sink.open()
    yield sink
    await sink.close()


def large(number: int, size: int = 8 * PIPE_BYTES) -> bytes:
    """Return lines of many lengths, some longer than what a pipe takes at once."""
    lines = []
    total = 0
    while total < size:
        length = (100, 1_000, 3_000, select.PIPE_BUF, 9_000)[len(lines) % 5]
        lines.append(b'{"n":%d,"x":"%b"}\n' % (number, b"x" * length))
        total += length
    return b"".join(lines)


class TestLines:
    async def test_batches_are_written_in_order(self, sink, pipe):
        """Every line comes out as it was, and nothing else."""
        assert await sink.plan(batch(1), {}) == {}
        await sink.send(batch(1, 2), {})
        await sink.send(batch(3), {})

        assert pipe.read_available() == b'{"n":1}\n{"n":2}\n{"n":3}\n'

    async def test_more_than_a_pipe_holds(self, sink, pipe):
        """Batches and lines of any size come out whole."""
        reader = pipe.read_in_background()
        lines = large(1) + b'{"x":"%b"}\n' % (b"y" * 4 * PIPE_BYTES)
        await sink.send(of_lines(lines), {})
        await until(lambda: reader.data == lines)

    @pytest.mark.parametrize("kind", ["file", "socket", "non_blocking"])
    async def test_other_outputs(self, tmp_path, pipe, kind):
        """A file is appended to; a socket, or a pipe that doesn't block, is written to whole."""
        lines = large(1)
        ours, theirs = socket.socketpair()
        path = tmp_path / "out.ndjson"
        path.write_bytes(b"before\n")
        with ours, theirs, path.open("ab") as file:
            if kind == "file":
                fd = file.fileno()
            elif kind == "socket":
                fd, reader = ours.fileno(), Reader(theirs.fileno())
            else:
                fd, reader = pipe.writer, pipe.read_in_background()
                os.set_blocking(fd, False)
            sink = StdoutSink(tmp_path / "state" / "stdout.lock", fd=fd)
            await sink.open()
            await sink.send(of_lines(lines), {})
            await sink.close()
            if kind == "file":
                assert path.read_bytes() == b"before\n" + lines
            else:
                await until(lambda: reader.data == lines)
            if kind == "socket":
                ours.shutdown(socket.SHUT_RDWR)
                await until(lambda: not reader.is_alive())

    def test_several_processes_on_one_pipe(self, tmp_path, pipe):
        """Each holds the output for a whole batch; a line is never inside of another one."""
        reader = pipe.read_in_background()
        writers = [start_writer(tmp_path, pipe, large(number)) for number in range(3)]
        for writer in writers:
            assert writer.wait(30) == 0
        expected = [part for number in range(3) for part in [large(number)] * BATCHES]
        wait_until(lambda: len(reader.data) == sum(map(len, expected)))

        parts, data = [], reader.data
        while data:
            part = large(int(data[5:6]))
            assert data.startswith(part)
            data = data[len(part) :]
            parts.append(part)
        assert sorted(parts) == expected


def start_writer(directory: Path, pipe: Pipe, content: bytes) -> subprocess.Popen:
    """Start a process that writes *content* several times to the pipe."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.delivery.stdout_writer", directory / "state" / "stdout.lock"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=pipe.writer,
    )
    writer.stdin.write(content)
    writer.stdin.close()
    return writer


class TestSlowReader:
    async def test_a_cancelled_call_is_joined(self, sink, pipe):
        """A batch that took too long and is sent again comes out once."""
        lines = large(1)
        for _try in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await sink.send(of_lines(lines), {})
        reader = pipe.read_in_background()
        await sink.send(of_lines(lines), {})
        await sink.send(batch(9), {})
        await until(lambda: reader.data.endswith(b'{"n":9}\n'))

        assert reader.data == lines + batch(9).content

    async def test_a_stop_does_not_wait(self, tmp_path, sink, pipe):
        """Closing ends the wait; what comes out is a part of the batch, which the next run sends
        again, on a line of its own.
        """
        sending = asyncio.create_task(sink.send(of_lines(large(1)), {}))
        await until(lambda: pipe.is_full)
        await sink.close()
        with pytest.raises(SinkUnavailable, match="slow"):
            await sending
        data = pipe.read_available()
        assert large(1).startswith(data)

        again = StdoutSink(tmp_path / "state" / "stdout.lock", fd=pipe.writer)
        await again.open()
        await again.send(batch(2), {})
        await again.close()
        assert pipe.read_available() == b'\n{"n":2}\n'

    async def test_a_wait_for_another_process_ends_too(self, tmp_path, sink):
        """Closing also ends the wait for the lock."""
        with (tmp_path / "state" / "stdout.lock").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            sending = asyncio.create_task(sink.send(batch(1), {}))
            await until(lambda: sink._sending)
            await sink.close()
            with pytest.raises(SinkUnavailable):
                await sending

    async def test_a_line_that_a_kill_cut_off(self, tmp_path, pipe):
        """The next line begins on its own, also after a kill in the middle of one."""
        writer = start_writer(tmp_path, pipe, b"x" * 8 * PIPE_BYTES + b"\n")
        await until(lambda: pipe.is_full)
        writer.kill()
        writer.wait()
        cut = pipe.read_available()
        assert set(cut) == set(b"x")

        sink = StdoutSink(tmp_path / "state" / "stdout.lock", fd=pipe.writer)
        await sink.open()
        for number in (1, 2):
            await sink.send(batch(number), {})
        await sink.close()
        assert pipe.read_available() == b'\n{"n":1}\n{"n":2}\n'


class TestFaults:
    async def test_a_reader_that_is_gone(self, sink, pipe):
        """It is an error of its own, for a server that has nothing else to do."""
        pipe.close_reader()
        for _try in range(2):
            with pytest.raises(SinkClosed, match="nobody reads"):
                await sink.send(batch(1), {})

    async def test_a_disk_error_in_the_middle(self, tmp_path, monkeypatch):
        """What was written is not written again; a line that was cut off is, on its own."""
        path = tmp_path / "out.ndjson"
        write = os.write
        with path.open("ab") as file:
            sink = StdoutSink(tmp_path / "state" / "stdout.lock", fd=file.fileno())
            await sink.open()

            def run_full(fd: int, data) -> int:
                if path.stat().st_size:
                    raise OSError(28, "No space left on device")
                return write(fd, data[:12])

            with monkeypatch.context() as patch:
                patch.setattr(os, "write", run_full)
                with pytest.raises(SinkUnavailable, match="No space left"):
                    await sink.send(batch(1, 2, 3), {})
            await sink.send(batch(1, 2, 3), {})
            await sink.close()

        assert path.read_bytes() == b'{"n":1}\n{"n"\n{"n":1}\n{"n":2}\n{"n":3}\n'

    async def test_a_full_data_disk(self, sink, pipe):
        """Once open, the sink needs no more room on the disk of its lock."""
        size = os.fstat(sink._lock_fd).st_size
        await sink.send(batch(1), {})
        assert os.fstat(sink._lock_fd).st_size == size
        assert pipe.read_available()

    async def test_no_output(self, tmp_path, pipe):
        """A descriptor that is none is said by `check`."""
        sink = StdoutSink(tmp_path / "state" / "stdout.lock", fd=pipe.writer)
        await sink.check()
        assert not (tmp_path / "state").exists()
        pipe.close_writer()
        with pytest.raises(SinkMisconfigured, match="Bad file descriptor"):
            await sink.check()
        with pytest.raises(SinkUnavailable, match="Bad file descriptor"):
            await sink.open()
        await sink.close()


class TestSettings:
    def test_it_has_a_plain_name(self, tmp_path):
        """There is one standard output, whatever else is beside it."""
        settings = Settings(data_dir=tmp_path, sink=("stdout:", "file:"))
        built = registry.build(settings)
        assert [one.name for one in built] == ["stdout", "file"]
        assert built[0].sink.describe() == "stdout:"

    @pytest.mark.parametrize("url", ["stdout:x", "stdout://", "stdout:?a=1"])
    def test_nothing_stands_behind_it(self, tmp_path, url):
        """A path or an option there would be a misunderstanding."""
        with pytest.raises(SettingsError, match="expected stdout: and nothing behind it"):
            registry.build(Settings(data_dir=tmp_path, sink=(url,)))

    def test_a_closed_output_is_refused(self, tmp_path, monkeypatch):
        """Its number may by now be another file's, such as the journal's."""
        monkeypatch.setattr(stdout_kind, "has_stdout", lambda: False)
        with pytest.raises(SettingsError, match="the standard output is closed"):
            registry.build(Settings(data_dir=tmp_path, sink=("stdout:",)))
