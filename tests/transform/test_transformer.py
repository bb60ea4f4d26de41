"""Functions in a child process: what they return comes back, and what they break stays there."""

import asyncio
import os
import signal
import subprocess
import sys

import orjson
import pytest

from segsrv.transform import transformer as transformers
from segsrv.transform.child import ANSWER_EVENTS
from segsrv.transform.transformer import NoChild
from tests.server_process import REPOSITORY
from tests.transform.hostile import HOSTILE, facts, hello, is_alive, module, newer, transformer
from tests.waiting import until


def lines_of(*whats):
    return [orjson.dumps({"do": what, "n": n}) + b"\n" for n, what in enumerate(whats)]


async def applied(directory, *whats, timeout_s=30.0, **options):
    """Return what comes of events that tell the function what to do, and the counters."""
    name = module(directory)
    own = transformer(directory, f"{name}:act", timeout_s=timeout_s, **options)
    lines = lines_of(*whats)
    try:
        return lines, await own.apply(lines, facts(*lines)), own.stats
    finally:
        await own.close()


class TestResults:
    async def test_events_keep_their_order(self, tmp_path):
        """What was dropped is missing, what was split stands together, with facts of its own."""
        lines, done, stats = await applied(tmp_path, "", "drop", "split", "")
        split = b'{"do":"split","n":2,"eventn_ctx_event_id":"id-2%s"}\n'
        assert done.lines == [lines[0], split % b"", split % b"-1", lines[3]]
        assert [fact.event_id for fact in done.facts] == ["id-0", "id-2", "id-2-1", "id-3"]
        assert [fact.length for fact in done.facts] == list(map(len, done.lines))
        assert (stats.events, stats.changed, stats.dropped, stats.made) == (4, 1, 1, 1)

    async def test_many_pieces(self, tmp_path, monkeypatch):
        """A batch that goes in many pieces comes back whole and in order."""
        monkeypatch.setattr(transformers, "PIECE_BYTES", 1_000)
        lines, done, _stats = await applied(tmp_path, *[""] * 5_000)
        assert done.lines == lines

    @pytest.mark.parametrize("count", [1, ANSWER_EVENTS - 1, ANSWER_EVENTS, 2 * ANSWER_EVENTS])
    async def test_answers_of_each_size(self, tmp_path, count):
        """A process is good for the next request whether or not its answer came out even."""
        own = transformer(tmp_path, f"{module(tmp_path)}:act")
        lines = lines_of(*[""] * count)
        try:
            for _request in range(3):
                assert (await own.apply(lines, facts(*lines))).lines == lines
            assert own.stats.restarts == 0
        finally:
            await own.close()

    async def test_each_key_has_its_own(self, tmp_path):
        """Functions of a key get its events only; other events see no process at all."""
        name = module(tmp_path, "def mark(event, context):\n    return {'key': context.key_id}\n")
        own = transformer(tmp_path)
        own._hello.chains["web"] = (f"{name}:mark",)
        lines = lines_of("", "")
        known = facts(*lines)
        known[1] = known[1]._replace(key_id="app")
        try:
            done = await own.apply(lines[1:], known[1:])
            assert (done.lines, own.pid) == (lines[1:], None)
            done = await own.apply(lines, known)
            assert done.lines == [b'{"key":"web"}\n', lines[1]]
        finally:
            await own.close()

    async def test_what_is_printed_goes_elsewhere(self, tmp_path, capfd):
        """Output neither breaks what is said between the two, nor reaches the server's output."""
        lines, done, _stats = await applied(tmp_path, "print", "")
        captured = capfd.readouterr()
        assert done.lines == lines
        assert captured.out == ""
        assert "xxx" in captured.err
        assert "yyy" in captured.err

    async def test_it_has_none_of_the_servers_files(self, tmp_path):
        """What the server has open, it has to itself, and a crash leaves no image of memory."""
        name = module(
            tmp_path,
            "import os, resource\n"
            "def look(event, context):\n"
            "    fds = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]\n"
            "    return {'files': [os.readlink(fd) for fd in fds if os.path.exists(fd)],\n"
            "        'core': resource.getrlimit(resource.RLIMIT_CORE)}\n",
        )
        own = transformer(tmp_path, f"{name}:look")
        line = b"{}\n"
        with (tmp_path / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            try:
                (found,) = (await own.apply([line], facts(line))).lines
            finally:
                await own.close()
        assert not any("secret" in path for path in orjson.loads(found)["files"])
        assert orjson.loads(found)["core"] == [0, 0]


class TestHostile:
    @pytest.mark.parametrize(
        ("what", "reason", "message"),
        [
            ("raise", "transform_failed", "LookupError: no such thing"),
            ("sys.exit", "transform_failed", "SystemExit: 4"),
            ("set", "transform_failed", "returned what JSON can't hold"),
            ("grow", "transform_failed", "the limit is event_bytes_max=1000000"),
            ("loop", "transform_timeout", "transform_timeout_s=1"),
            ("loop in C", "transform_timeout", "transform_timeout_s=1"),
            ("sleep", "transform_timeout", "transform_timeout_s=1"),
            ("exit", "transform_exited", "exited with status 3"),
            ("fork", "transform_exited", "exited with status 0"),
            ("segfault", "transform_exited", "was ended by SIGSEGV"),
            ("allocate", "transform_exited", "needed more memory"),
            ("close", "transform_exited", "the process "),
        ],
    )
    async def test_the_culprit_is_set_aside_alone(self, tmp_path, what, reason, message):
        """Whatever a function does at one event, that one is set aside and the others arrive."""
        whats = ["", "", what, "", "drop", ""]
        lines, done, _stats = await applied(tmp_path, *whats, timeout_s=1.0)
        assert [(fault.number, fault.reason) for fault in done.faults] == [(2, reason)]
        assert message in done.faults[0].message
        assert done.lines == [lines[0], lines[1], lines[3], lines[5]]

    async def test_the_trace_says_where(self, tmp_path):
        """An exception has its traceback, and a loop the place that it was at."""
        _lines, done, _stats = await applied(tmp_path, "raise", "loop", timeout_s=1.0)
        raised, looped = done.faults
        assert "raise LookupError" in raised.traceback
        assert "segsrv" not in raised.traceback
        assert "in act" in looped.traceback

    async def test_culprits_only(self, tmp_path):
        """Where every event ends the process, each is set aside, and none is tried for ever."""
        _lines, done, stats = await applied(tmp_path, *["exit"] * 5)
        assert [fault.number for fault in done.faults] == [0, 1, 2, 3, 4]
        assert stats.restarts <= 10

    async def test_a_leak_costs_restarts_only(self, tmp_path):
        """A process that has kept too much is replaced, and every event arrives."""
        lines, done, stats = await applied(tmp_path, *["leak"] * 20)
        assert done.lines == lines
        assert stats.restarts > 0

    async def test_an_innocent_is_tried_again(self, tmp_path):
        """Who meets the end of a process that others have brought about is not set aside."""
        name = module(
            tmp_path,
            "import os\ncalls = 0\n"
            "def act(event, context):\n    global calls\n    calls += 1\n"
            "    if calls == 4:\n        os._exit(1)\n    return event\n",
        )
        own = transformer(tmp_path, f"{name}:act")
        lines = lines_of(*[""] * 10)
        try:
            done = await own.apply(lines, facts(*lines))
        finally:
            await own.close()
        assert done.lines == lines
        assert done.faults == []

    async def test_a_batch_that_explodes(self, tmp_path):
        """What would take more memory than there is for a batch is set aside."""
        lines, done, _stats = await applied(tmp_path, "", *["split"] * 50, "", made_bytes_max=1_000)
        assert {fault.reason for fault in done.faults} == {"transform_failed"}
        assert 0 < len(done.faults) < 50
        assert done.lines[0] == lines[0]
        assert done.lines[-1] == lines[-1]
        assert sum(map(len, done.lines)) < 2_000


class TestReload:
    async def test_a_changed_file_is_loaded(self, tmp_path, monkeypatch):
        """The next batch goes through what the file says by then."""
        monkeypatch.setattr(transformers, "LOOK_S", 0.0)
        text = "def act(event, context):\n    return {'v': %d}\n"
        name = module(tmp_path, "")
        path = tmp_path / f"{name}.py"
        newer(path, text % 1)
        own = transformer(tmp_path, f"{name}:act")
        line = b'{"a":1}\n'
        try:
            assert (await own.apply([line], facts(line))).lines == [b'{"v":1}\n']
            pid = own.pid
            assert (await own.apply([line], facts(line))).lines == [b'{"v":1}\n']
            assert own.pid == pid
            newer(path, text % 2)
            assert (await own.apply([line], facts(line))).lines == [b'{"v":2}\n']
            assert not is_alive(pid)
            assert own.stats.reloads == 1
        finally:
            await own.close()

    async def test_a_broken_file_changes_nothing(self, tmp_path, monkeypatch, caplog):
        """The functions that were loaded stay until the file can be loaded again."""
        monkeypatch.setattr(transformers, "LOOK_S", 0.0)
        text = "def act(event, context):\n    return {'v': %d}\n"
        name = module(tmp_path, "")
        path = tmp_path / f"{name}.py"
        newer(path, text % 1)
        own = transformer(tmp_path, f"{name}:act")
        line = b'{"a":1}\n'
        try:
            await own.apply([line], facts(line))
            newer(path, "def act(event, context:\n")
            assert (await own.apply([line], facts(line))).lines == [b'{"v":1}\n']
            assert f"{name}:act: can't be imported: SyntaxError" in caplog.text
            newer(path, text % 2)
            assert (await own.apply([line], facts(line))).lines == [b'{"v":2}\n']
        finally:
            await own.close()

    async def test_siblings_of_its_package_are_watched(self, tmp_path, monkeypatch):
        """A change of what the function's module imports from its package counts as well."""
        monkeypatch.setattr(transformers, "LOOK_S", 0.0)
        package = tmp_path / f"{module(tmp_path)}_package"
        package.mkdir()
        newer(package / "__init__.py", "")
        newer(package / "table.py", "VALUE = 1\n")
        text = "from .table import VALUE\ndef act(event, context):\n    return {'v': VALUE}\n"
        newer(package / "main.py", text)
        own = transformer(tmp_path, f"{package.name}.main:act")
        line = b'{"a":1}\n'
        try:
            assert (await own.apply([line], facts(line))).lines == [b'{"v":1}\n']
            newer(package / "table.py", "VALUE = 2\n")
            assert (await own.apply([line], facts(line))).lines == [b'{"v":2}\n']
        finally:
            await own.close()

    async def test_other_functions(self, tmp_path, caplog):
        """Other settings take effect with the next batch, and broken ones change nothing."""
        name = module(
            tmp_path,
            "def one(event, context):\n    return {'v': 1}\n"
            "def two(event, context):\n    return {'v': 2}\n",
        )
        own = transformer(tmp_path)
        line = b'{"a":1}\n'
        results = []
        for functions in ((), (f"{name}:one",), (f"{name}:three",), (f"{name}:two",), ()):
            own.use(hello(tmp_path, *functions))
            results += (await own.apply([line], facts(line))).lines
        assert results == [line, b'{"v":1}\n', b'{"v":1}\n', b'{"v":2}\n', line]
        assert "has no three" in caplog.text
        assert own.pid is None
        await own.close()

    async def test_what_cannot_be_loaded_is_said(self, tmp_path):
        """Without any process, the text names the function and says why."""
        own = transformer(tmp_path, f"{module(tmp_path)}:missing")
        line = b"{}\n"
        with pytest.raises(NoChild, match=r"transform=own_functions\w+:missing: the module has no"):
            await own.apply([line], facts(line))


class TestEnds:
    async def test_a_cancelled_call_leaves_no_process(self, tmp_path):
        """Who stops in the middle of a loop ends the process, and the next call has a new one."""
        own = transformer(tmp_path, f"{module(tmp_path)}:act")
        lines = lines_of("loop")
        task = asyncio.create_task(own.apply(lines, facts(*lines)))
        await until(lambda: own.pid)
        pid = own.pid
        task.cancel()
        await asyncio.wait([task])
        assert not is_alive(pid)
        fine = lines_of("")
        assert (await own.apply(fine, facts(*fine))).lines == fine
        await own.close()

    async def test_a_process_that_dies_idle_is_replaced(self, tmp_path):
        """Nobody is blamed for an end between two batches."""
        own = transformer(tmp_path, f"{module(tmp_path)}:act")
        lines = lines_of("", "")
        await own.apply(lines, facts(*lines))
        os.kill(own.pid, signal.SIGKILL)
        done = await own.apply(lines, facts(*lines))
        assert (done.lines, done.faults) == (lines, [])
        await own.close()

    @pytest.mark.parametrize("what", ["", "loop", "loop in C"])
    async def test_it_ends_when_its_server_is_killed(self, tmp_path, what):
        """A server that is killed leaves no process behind, whatever that is doing."""
        name = module(tmp_path, HOSTILE)
        script = f"""
import asyncio, pathlib
from tests.transform.hostile import facts, transformer
async def main():
    own = transformer(pathlib.Path({str(tmp_path)!r}), "{name}:act")
    line = b'{{}}\\n'
    await own.apply([line], facts(line))
    print(own.pid, flush=True)
    line = b'{{"do":"{what}"}}\\n'
    await own.apply([line], facts(line))
    await asyncio.Event().wait()
asyncio.run(main())
"""
        command = [sys.executable, "-c", script]
        server = await asyncio.create_subprocess_exec(
            *command, cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        pid = int(await server.stdout.readline())
        server.kill()
        await server.wait()
        await until(lambda: not is_alive(pid))
