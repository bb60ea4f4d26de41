"""The thread that owns a log: its jobs one by one, their ends told, and nothing kept of them."""

import asyncio
import gc
import sys
import threading
import weakref

import pytest

from segsrv.errors import JournalFault, ShuttingDown
from segsrv.journal.log_thread import JOBS_MAX, LogThread
from tests.waiting import DEADLINE_S, until


class Thing:
    """Something that a job holds."""


@pytest.fixture
async def thread():
    thread = LogThread("segsrv-test")
    yield thread
    async with asyncio.timeout(DEADLINE_S):
        await thread.close(lambda: None)


class TestJobs:
    async def test_they_are_done_in_order(self, thread):
        """Each by the one thread, and what it returns comes to who waits."""
        done: list[tuple[int, int]] = []

        def job(number: int) -> int:
            done.append((number, threading.get_ident()))
            return number

        calls = [thread.call(lambda number=number: job(number)) for number in range(20)]
        assert await asyncio.gather(*calls) == list(range(20))
        assert [number for number, _owner in done] == list(range(20))
        assert len({owner for _number, owner in done} | {threading.get_ident()}) == 2

    async def test_one_that_fails(self, thread):
        """Its error comes to who waits, and the next job is done."""
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda: 1 // 0)
        assert await thread.call(lambda: 1) == 1

    async def test_nobody_waits_any_more(self, thread):
        """A call that was cancelled, or came from a loop that is closed, is done all the same."""
        gate, done = threading.Event(), []
        held = thread.call(lambda: gate.wait(DEADLINE_S))
        thread.call(lambda: done.append(1)).cancel()

        async def leave() -> None:
            thread.call(lambda: done.append(2))

        await asyncio.to_thread(lambda: asyncio.run(leave()))
        gate.set()
        await held
        await until(lambda: done == [1, 2])
        assert await thread.call(lambda: 1) == 1

    @pytest.mark.parametrize("is_failing", [False, True])
    async def test_nothing_is_kept(self, thread, is_failing):
        """An idle thread holds neither its last job nor the error that it raised."""
        thing = Thing()
        gone = weakref.ref(thing)

        def job(_thing: Thing = thing) -> None:
            if is_failing:
                raise ValueError("no")

        told: list[str] = []
        gc.disable()
        try:
            loop = asyncio.get_running_loop()
            thread.run(job, loop, lambda error: told.append(str(error)))
            del job, thing
            await until(lambda: told)
            # The next turn lets go of the call itself.
            await until(lambda: gone() is None)
        finally:
            gc.enable()
        assert told == ["no" if is_failing else "None"]

    async def test_calls_are_bounded(self, thread):
        """More than so many that wait are refused, and a commit is not among them."""
        gate = threading.Event()
        begun = threading.Event()
        loop, told = asyncio.get_running_loop(), []
        calls = [thread.call(lambda: (begun.set(), gate.wait(DEADLINE_S)))]
        await until(begun.is_set)
        calls += [thread.call(lambda: None) for _call in range(JOBS_MAX)]
        with pytest.raises(JournalFault, match=f"{JOBS_MAX} jobs wait"):
            thread.call(lambda: None)
        thread.run(lambda: None, loop, told.append)
        gate.set()
        await asyncio.gather(*calls)
        await until(lambda: told == [None])


class TestEnd:
    async def test_all_that_waits_is_done_before(self):
        """The last job comes behind those that were given before, and the thread is gone then."""
        thread, done = LogThread("segsrv-test"), []
        calls = [thread.call(lambda number=number: done.append(number)) for number in range(9)]
        async with asyncio.timeout(DEADLINE_S):
            await thread.close(lambda: done.append("last"))
        assert done == [*range(9), "last"]
        assert all(call.done() for call in calls)
        assert "segsrv-test" not in [one.name for one in threading.enumerate()]

    async def test_it_takes_no_more(self):
        """Whoever comes too late is told, and a second end is none."""
        thread, done = LogThread("segsrv-test"), []
        for _time in range(2):
            await thread.close(lambda: done.append("last"))
        with pytest.raises(ShuttingDown):
            thread.call(lambda: None)
        assert done == ["last"]

    async def test_an_end_that_fails(self):
        """Who closes learns why, and the thread ends."""
        thread = LogThread("segsrv-test")
        with pytest.raises(ZeroDivisionError):
            await thread.close(lambda: 1 // 0)
        await thread.close(lambda: None)

    async def test_a_disk_that_hangs_does_not_hold_up_the_process(self):
        """A process whose thread never comes back ends when it is done."""
        code = (
            "import asyncio, threading\n"
            "from segsrv.journal.log_thread import LogThread\n"
            "async def main():\n"
            "    LogThread('hung').call(lambda: threading.Event().wait())\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
