"""The real server restarts in place at SIGUSR2."""

import asyncio
import contextlib
import os
import re
import signal
import textwrap
from functools import partial

import pytest

from tests.faults.crashes import check_stored, is_unlocked, pids, worker_pids
from tests.process.steady_client import SteadyClient
from tests.process.test_workers import locked
from tests.server_process import ServerProcess
from tests.site import Site, new_id
from tests.waiting import until, wait_until

QUICK = ("--flush-interval-s=0.01", "--sink-retry-s-max=0.2")
DONE = re.compile("restarted in place|rolling restart is done")
DEADLINE_S = 60.0
SHAPES = [
    pytest.param(("--workers=1",), id="alone"),
    pytest.param(("--workers=1", "--delivery=process"), id="one-and-delivery"),
    pytest.param(("--workers=2",), id="two-and-delivery"),
    pytest.param(("--workers=2", "--delivery=thread"), id="two"),
]


def restarts(server) -> int:
    return len(DONE.findall(server.stderr))


def ask(server) -> None:
    os.kill(server.pid, signal.SIGUSR2)


def has_restarted(server, before) -> bool:
    return restarts(server) > before


def restart(server) -> None:
    """Restart the server and wait until all its processes are new."""
    before = restarts(server)
    ask(server)
    wait_until(partial(has_restarted, server, before), deadline_s=DEADLINE_S)


async def more_answered(client) -> None:
    target = len(client.acknowledged) + 50
    await until(lambda: len(client.acknowledged) >= target, deadline_s=DEADLINE_S)


def post(site, *, key="test-key") -> str:
    event_id = new_id()
    event = {"type": "track", "event": "e", "messageId": event_id}
    assert site.post(event, key=key).status == 200
    return event_id


class Program:
    """A script that serves, to be replaced by another as an installation does."""

    def __init__(self, path):
        self.path = path
        self.write("")

    def write(self, first: str) -> None:
        text = "import sys\n" + textwrap.dedent(first)
        self.path.write_text(text + "\nfrom segsrv.cli import main\nsys.exit(main())\n")


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path / "program.py")


@pytest.mark.parametrize("flags", SHAPES)
async def test_a_client_notices_nothing(tmp_path, flags):
    """Under load none is refused, each event is answered, and stored once."""
    server = ServerProcess(tmp_path / "data", *flags, *QUICK)
    client = SteadyClient()
    await asyncio.to_thread(server.start)
    try:
        first = pids(server)
        async with client.running(server.port):
            for _time in range(2):
                await more_answered(client)
                before = restarts(server)
                ask(server)
                await until(partial(has_restarted, server, before), deadline_s=DEADLINE_S)
                await more_answered(client)
        assert server.exit_code is None
        for name, pid in pids(server).items():
            # A worker alone is the process that was started.
            assert (pid == server.pid) == (first.get(name) == server.pid)
            assert pid == server.pid or pid != first.get(name)
        assert await asyncio.to_thread(server.stop) == 0
    finally:
        await asyncio.to_thread(server.kill)
    check_stored(server, client.acknowledged)


@pytest.mark.parametrize("flags", SHAPES[::2])
def test_the_program_and_the_settings_are_read_anew(tmp_path, program, flags):
    """What was installed since, and what the file says by now, is what runs."""
    config = tmp_path / "segsrv.toml"
    config.write_text('write_key = ["old:first-secret"]\n')
    flags = (*flags, *QUICK, f"--config={config}")
    options = {"program": (str(program.path),), "write_keys": ()}
    with ServerProcess(tmp_path / "data", *flags, **options) as server:
        site = Site(server)
        acknowledged = {post(site, key="first-secret")}
        config.write_text('write_key = ["new:second-secret"]\n')
        program.write("print('the second program', file=sys.stderr)")
        restart(server)
        acknowledged.add(post(site, key="second-secret"))
        assert site.post({"type": "track", "event": "e"}, key="first-secret").status == 401
        assert "the second program" in server.stderr
    assert server.exit_code == 0
    assert server.stdout.count("segsrv listening on") == 1
    check_stored(server, acknowledged)


@pytest.mark.parametrize("flags", SHAPES[::2])
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        pytest.param("raise ImportError('half installed')", "half installed", id="program"),
        pytest.param(
            "sys.argv.append('--flush-interval-s=soon')", "flush-interval-s", id="setting"
        ),
        pytest.param("sys.argv.append('--port=1')", "port: has changed", id="fixed"),
        pytest.param(
            "from segsrv.process import handover; handover.FORMAT = 'another'",
            "can't take over",
            id="memory",
        ),
    ],
)
def test_one_that_could_not_start_changes_nothing(tmp_path, program, flags, broken, said):
    """The same processes go on, the log says why, and a mended program comes at the next signal."""
    options = {"program": (str(program.path),)}
    with ServerProcess(tmp_path / "data", *flags, *QUICK, **options) as server:
        site = Site(server)
        wait_until(lambda: not is_unlocked(server.data_dir))
        before = worker_pids(server)
        program.write(broken)
        ask(server)
        wait_until(lambda: "the server goes on as it is" in server.stderr)
        assert said in server.stderr
        acknowledged = {post(site)}
        assert worker_pids(server) == before
        program.write("")
        restart(server)
        acknowledged.add(post(site))
    assert server.exit_code == 0
    check_stored(server, acknowledged)


def test_one_that_fails_later_leaves_the_others(tmp_path):
    """The first worker's successor can't start: the second goes on, and is replaced when it can."""
    with ServerProcess(tmp_path / "data", "--workers=2", *QUICK) as server:
        site = Site(server)
        before = worker_pids(server)
        with contextlib.ExitStack() as lock:
            lock.enter_context(taken_when_free(server, "w0"))
            wait_until(lambda: "starting it again name=w0" in server.stderr, deadline_s=DEADLINE_S)
            acknowledged = {post(site) for _time in range(20)}
            assert worker_pids(server)[1] == before[1]
        wait_until(lambda: restarts(server) == 1, deadline_s=DEADLINE_S)
        assert not set(worker_pids(server).values()) & set(before.values())
        acknowledged |= {post(site) for _time in range(20)}
    assert server.exit_code == 0
    check_stored(server, acknowledged)


@contextlib.contextmanager
def taken_when_free(server, name):
    """Restart, and hold the lock of a journal as soon as its worker has let go of it."""
    halted = worker_pids(server)[0]
    os.kill(halted, signal.SIGSTOP)
    ask(server)
    os.kill(halted, signal.SIGCONT)
    with locked(server.data_dir / "journal" / name / "lock"):
        yield


@pytest.mark.parametrize("flags", SHAPES[::2])
def test_a_second_signal_during_one(tmp_path, flags):
    """It begins anew: in the end every process is of the last program, and no event is lost."""
    with ServerProcess(tmp_path / "data", *flags, *QUICK) as server:
        site = Site(server)
        acknowledged = {post(site)}
        ask(server)
        wait_until(lambda: "rehearsing" in server.stderr)
        ask(server)
        wait_until(lambda: "stopping" in server.stderr, deadline_s=DEADLINE_S)
        ask(server)
        wait_until(lambda: restarts(server) >= 1, deadline_s=DEADLINE_S)
        acknowledged.add(post(site))
    assert server.exit_code == 0
    check_stored(server, acknowledged)


EARLY_SIGNAL = """
import os, signal, sys
from segsrv.cli import main
from segsrv.process import handover
if handover.VARIABLE not in os.environ:
    handover.hold_signals()
    os.kill(os.getpid(), signal.SIGUSR2)
sys.exit(main())
"""


@pytest.mark.parametrize("flags", SHAPES[::2])
def test_a_signal_that_has_waited_for_the_program(tmp_path, flags):
    """Sent while a program takes over, it is no less heard: what is installed may be newer."""
    with ServerProcess(tmp_path / "data", *flags, *QUICK, program=("-c", EARLY_SIGNAL)) as server:
        wait_until(lambda: restarts(server) >= 1, deadline_s=DEADLINE_S)
        acknowledged = {post(Site(server))}
    assert server.exit_code == 0
    check_stored(server, acknowledged)


@pytest.mark.parametrize("flags", SHAPES[::2])
@pytest.mark.parametrize("moment", ["rehearsing", "stopping"])
def test_a_stop_during_one(tmp_path, flags, moment):
    """The server ends as at any stop, and nobody is left."""
    with ServerProcess(tmp_path / "data", *flags, *QUICK) as server:
        acknowledged = {post(Site(server))}
        ask(server)
        wait_until(lambda: moment in server.stderr, deadline_s=DEADLINE_S)
        assert server.stop() == 0
    assert is_unlocked(server.data_dir)
    with ServerProcess(tmp_path / "data", *flags, *QUICK) as server:
        pass
    check_stored(server, acknowledged)
