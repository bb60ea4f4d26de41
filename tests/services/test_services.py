"""What the tests of sinks rely on: services that start, freeze and die, and a proxy that breaks."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path

import pytest

from tests.server_process import REPOSITORY
from tests.services import base
from tests.services.base import Service
from tests.services.free_ports import FIRST, LAST, release_port, take_port
from tests.services.proxy import Proxy
from tests.services.reaper import stat
from tests.waiting import wait_until

LINE_SERVER = Path(__file__).with_name("line_server.py")


class LineService(Service):
    name = "lines"
    start_timeout_s = 20.0
    stop_signal = signal.SIGINT

    @property
    def path(self) -> Path:
        return self.data_dir / "lines"

    @property
    def child(self) -> int:
        return int(Path(f"{self.path}.child").read_text())

    def command(self):
        return [sys.executable, str(LINE_SERVER), str(self.port), str(self.path)]

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.exists() else []


class BrokenService(LineService):
    def command(self):
        return [sys.executable, "-c", "import sys; sys.exit('no such luck')"]


class DeafService(LineService):
    start_timeout_s = 0.3

    def command(self):
        return ["sleep", "600"]


@pytest.fixture
def service(tmp_path):
    with LineService(tmp_path / "service") as running:
        yield running


@pytest.fixture
def proxy(service):
    with Proxy(service.port) as running:
        yield running


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def asked(sock: socket.socket, line: bytes) -> bytes:
    """Send *line* and return what is answered; nothing if the connection was cut."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(line + b"\n")
        return sock.recv(100)
    return b""


def is_gone(pid: int) -> bool:
    return (known := stat(pid)) is None or known[0] in "ZX"


class TestPorts:
    def test_no_port_is_given_twice(self):
        """Ports are distinct, below those that the kernel hands out, and can be given back."""
        ports = [take_port(10_000) for _number in range(20)]
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        try:
            assert len(set(ports)) == 20
            assert all(FIRST <= port <= LAST < low - 10_000 for port in ports)
        finally:
            for port in ports:
                release_port(port)

    def test_another_process_keeps_its_ports(self):
        """A port that another process has taken is not given out, though nothing listens there."""
        port = take_port()
        code = (
            "import tests.services.free_ports as ports\n"
            f"ports.FIRST = ports.LAST = {port}\n"
            "ports.take_port()"
        )
        try:
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            release_port(port)
        assert f"no port from {port} to {port} is free" in done.stderr


class TestService:
    def test_it_answers_once_started(self, service):
        """A started service answers at once, with its output in its log."""
        with connected(service.port) as sock:
            assert asked(sock, b"one") == b"4\n"
        assert service.is_running
        assert "listening" in service.log_tail()

    def test_a_restart_keeps_port_and_data(self, service):
        """Stopped or killed and started again, it has its port and its data."""
        port = service.port
        for number, end in enumerate((service.stop, service.kill), 1):
            with connected(port) as sock:
                asked(sock, b"line")
            end()
            assert not service.is_running
            service.start()
            assert service.port == port
            assert len(service.lines()) == number

    @pytest.mark.parametrize("end", ["stop", "kill"])
    @pytest.mark.parametrize("is_paused", [False, True])
    def test_nothing_is_left_of_it(self, service, end, is_paused):
        """Its end, even while frozen, is the end of its children in other sessions, too."""
        child = service.child
        if is_paused:
            service.pause()
        getattr(service, end)()
        assert is_gone(child)
        assert not base.is_listening(service.port)

    def test_a_paused_one_hangs(self, service):
        """Frozen, it takes connections and answers nothing; it goes on where it was."""
        with connected(service.port) as sock:
            assert asked(sock, b"one") == b"4\n"
            service.pause()
            wait_until(lambda: stat(service.child)[0] == "T")
            sock.sendall(b"other\n")
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(10)
            service.resume()
            sock.settimeout(10)
            assert sock.recv(10) == b"6\n"

    def test_one_that_ends_at_once_says_why(self, tmp_path):
        """A service that can't start fails the test with its last words."""
        service = BrokenService(tmp_path)
        with pytest.raises(RuntimeError, match="ended with 1\nno such luck"):
            service.start()
        service.close()

    def test_one_that_never_answers_is_given_up(self, tmp_path):
        """A service that does not get ready in time is killed."""
        service = DeafService(tmp_path)
        with pytest.raises(RuntimeError, match=r"did not answer within 0\.3 s"):
            service.start()
        assert not service.is_running
        service.close()

    def test_none_outlives_a_test_run_that_is_killed(self, tmp_path):
        """Services whose tests were killed are killed as well, with their children."""
        code = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from tests.services.test_services import LineService\n"
            "service = LineService(Path(sys.argv[1]))\n"
            "service.start()\n"
            "print(service.pid, service.child, flush=True)\n"
            "time.sleep(600)\n"
        )
        run = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
        )
        with run:
            pids = [int(pid) for pid in run.stdout.readline().split()]
            assert len(pids) == 2
            run.kill()
        wait_until(lambda: all(map(is_gone, pids)))


class TestProxy:
    def test_it_passes_on(self, service, proxy):
        """Without a fault the proxy changes nothing, whatever the size."""
        line = b"x" * 500_000
        with connected(proxy.port) as sock:
            assert asked(sock, line) == b"500001\n"
        assert service.lines() == [line]
        assert (proxy.client_bytes, proxy.server_bytes, proxy.accepted) == (500_001, 7, 1)

    def test_a_cut_ends_all_and_refuses(self, proxy):
        """A cut resets connections and refuses new ones; healed, the same port works again."""
        with connected(proxy.port) as sock:
            assert asked(sock, b"one")
            proxy.cut()
            assert proxy.is_cut
            assert asked(sock, b"two") == b""
        with pytest.raises(ConnectionError):
            connected(proxy.port)
        proxy.heal()
        with connected(proxy.port) as sock:
            assert asked(sock, b"three") == b"6\n"

    def test_a_cut_in_mid_request(self, service, proxy):
        """What comes behind so many bytes of clients never arrives, and all is cut."""
        with connected(proxy.port) as sock:
            proxy.cut_after(10)
            assert asked(sock, b"1234") == b"5\n"
            assert asked(sock, b"567890") == b""
        assert proxy.is_cut
        assert proxy.client_bytes == 10
        assert service.lines() == [b"1234"]

    def test_an_answer_is_lost(self, service, proxy):
        """A request arrives whole and its answer does not."""
        with connected(proxy.port) as sock:
            proxy.drop_answers(client_bytes=10)
            assert asked(sock, b"small") == b"6\n"
            assert asked(sock, b"large enough") == b""
        assert proxy.is_cut
        assert service.lines() == [b"small", b"large enough"]

    def test_the_answer_to_a_mark_is_lost(self, service, proxy):
        """Only what answers a request with certain bytes is lost."""
        with connected(proxy.port) as sock:
            proxy.drop_answers(mark=b"COMMIT")
            assert asked(sock, b"COPY and much more") == b"19\n"
            assert asked(sock, b"COMMIT") == b""
        assert service.lines() == [b"COPY and much more", b"COMMIT"]

    def test_it_hangs(self, service, proxy):
        """While it hangs, nothing gets through, on connections old and new; healed, all does."""
        with connected(proxy.port) as old:
            assert asked(old, b"one")
            proxy.hang()
            with connected(proxy.port) as new:
                for sock in (old, new):
                    sock.sendall(b"two\n")
                    sock.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        sock.recv(10)
                    sock.settimeout(10)
                assert service.lines() == [b"one"]
                proxy.heal()
                assert old.recv(10) == new.recv(10) == b"4\n"

    def test_it_hangs_in_mid_request(self, service, proxy):
        """It hangs behind so many bytes; healed, what it held back arrives whole and in order."""
        with connected(proxy.port) as sock:
            proxy.hang_after(3)
            sock.sendall(b"123456\n")
            wait_until(lambda: proxy.is_hung)
            assert service.lines() == []
            assert not proxy.is_cut
            proxy.heal()
            assert sock.recv(10) == b"7\n"
        assert service.lines() == [b"123456"]

    def test_an_answer_is_held_back(self, service, proxy):
        """A request arrives, and its answer only when the proxy is healed."""
        with connected(proxy.port) as sock:
            proxy.hold_answers(mark=b"now")
            assert asked(sock, b"no") == b"3\n"
            sock.sendall(b"now\n")
            wait_until(lambda: proxy.is_hung)
            assert service.lines() == [b"no", b"now"]
            proxy.heal()
            assert sock.recv(10) == b"4\n"

    def test_a_server_that_is_down(self, service, proxy):
        """Clients of a server that is gone are cut, and served when it is back."""
        service.kill()
        # The cut may come as early as the end of the connect.
        with contextlib.suppress(ConnectionError), connected(proxy.port) as sock:
            assert asked(sock, b"one") == b""
        service.start()
        with connected(proxy.port) as sock:
            assert asked(sock, b"two") == b"4\n"


class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_developer_gets_what_to_paste(self, tmp_path, number):
        """`tests.services.run` prints a sink's table, and Ctrl-C or `kill` ends its service."""
        with (tmp_path / "out").open("wb") as output:
            running = subprocess.Popen(
                [sys.executable, "-m", "tests.services.run", "webhook"],
                cwd=REPOSITORY,
                stdout=output,
                start_new_session=True,
            )
        wait_until(lambda: "Ctrl-C ends all" in (tmp_path / "out").read_text(), deadline_s=60)
        table, _line, _rest = (tmp_path / "out").read_text().partition("\n# running")
        (sink,) = tomllib.loads(table)["sinks"]
        port = urllib.parse.urlsplit(sink["url"]).port
        assert base.is_listening(port)

        running.send_signal(number)

        assert running.wait(30) == 0
        assert not base.is_listening(port)

    def test_an_unknown_name(self):
        """A service that is not there is refused with those that are."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.services.run", "mysql"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "mysql is unknown, expected kafka-idempotent, " in done.stderr
