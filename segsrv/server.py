"""The process around the application: sockets, workers, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, NoReturn

import uvloop
from aiohttp import web

from segsrv import allocator
from segsrv.addresses import Address
from segsrv.app import create_app, create_ops_app
from segsrv.errors import Overloaded, SegsrvError, SettingsError
from segsrv.http.connection import Connection
from segsrv.http.refused_connection import RefusedConnection, refusal_text
from segsrv.http.tally import TALLY, Tally
from segsrv.settings import Settings
from segsrv.tls import Certificate
from segsrv.write_keys import with_keys

logger = logging.getLogger(__name__)

STARTUP_FAILURES = (SettingsError.exit_code, SegsrvError.exit_code)
"""Exit statuses of a process that could not start; a worker with one is not started again."""
RESTART_DELAY_S = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 1_024
READ_BYTES = 64 << 10
GC_THRESHOLD = 50_000
SWITCH_INTERVAL_S = 0.001
"""How long a thread that comes back from a write waits for a busy event loop to let it go on.

With the interpreter's own 5 ms, commits and deliveries fall behind the loop that feeds them.
"""
FILES_RESERVED = 512
"""Open files that no connection may take: the journal's, sinks', databases', refused clients'."""
OPS_CONNECTIONS_MAX = 64


class Listeners(NamedTuple):
    """The sockets that every worker accepts from: for clients, and for operators if set apart."""

    public: socket.socket
    ops: socket.socket | None


def serve(settings: Settings, announce: Callable[[str, Settings], None]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    *announce* is called once, when every worker takes requests, with the address and the settings;
    they have their keys, and in `ops_listen` the port that was picked.
    """
    _raise_file_limit()
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(_listen(Address(settings.host, settings.port)))
        address = Address(settings.host, public.getsockname()[1])
        url = f"{'https' if settings.tls_cert else 'http'}://{address}"
        ops = None
        if settings.ops_listen:
            ops_address = Address.parse(settings.ops_listen)
            ops = stack.enter_context(_listen(ops_address))
            ops_address = ops_address._replace(port=ops.getsockname()[1])
            settings = dataclasses.replace(settings, ops_listen=str(ops_address))
        listeners = Listeners(public, ops)
        # Only now: a start that fails for its port should leave no key that nobody was told.
        settings = with_keys(settings)
        if settings.workers == 1:
            return run_worker(settings, listeners, 0, lambda: announce(url, settings))
        return _Workers(settings, listeners, lambda: announce(url, settings)).run()


def run_worker(
    settings: Settings,
    listeners: Listeners,
    worker: int,
    on_ready: Callable[[], None],
    parent_fd: int | None = None,
) -> int:
    """Serve in this process until it is told to stop; return the exit status.

    *parent_fd* is the reading end of a pipe that closes when the parent is gone.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listeners, worker, on_ready, parent_fd))
    except SegsrvError as error:
        print(f"segsrv: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


async def _serve(
    settings: Settings,
    listeners: Listeners,
    worker: int,
    on_ready: Callable[[], None],
    parent_fd: int | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    if parent_fd is not None:

        def parent_is_gone() -> None:
            # A worker without its parent would hold the data directory against the next start.
            loop.remove_reader(parent_fd)
            stop.set()

        loop.add_reader(parent_fd, parent_is_gone)
    certificate = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificate = Certificate(settings.tls_cert, settings.tls_key)
    app = create_app(settings, worker=worker)
    tally = app[TALLY]
    async with contextlib.AsyncExitStack() as stack:
        if listeners.ops is not None:
            # First, so that it ends last: operators want to see how a stop goes on.
            ops = create_ops_app(app)
            await stack.enter_async_context(
                _listening(ops, settings, listeners.ops, OPS_CONNECTIONS_MAX, tally)
            )
        connections_max = settings.connections_max
        await stack.enter_async_context(
            _listening(app, settings, listeners.public, connections_max, tally, certificate)
        )
        # What start-up made stays for good; the collector need not look at it again. Events are
        # trees that reference counting frees, so it need not look often either.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 100)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        logger.info("started worker=%d pid=%d", worker, os.getpid())
        trimming = asyncio.create_task(allocator.trim_for_ever(), name="segsrv-trim")
        on_ready()
        await stop.wait()
        trimming.cancel()
        logger.info("stopping worker=%d", worker)


@contextlib.asynccontextmanager
async def _listening(
    app: web.Application,
    settings: Settings,
    listener: socket.socket,
    connections_max: int,
    tally: Tally,
    certificate: Certificate | None = None,
) -> AsyncIterator[None]:
    """Start *app* and take its requests from *listener*; at the end stop both in order."""
    runner = web.AppRunner(app, shutdown_timeout=settings.shutdown_grace_s)
    await runner.setup()
    watch = listening = None
    try:
        listening = await asyncio.get_running_loop().create_server(
            _limited(runner.server, settings, connections_max, tally),
            sock=listener,
            backlog=BACKLOG,
            ssl=certificate.context if certificate else None,
        )
        if certificate is not None:
            watch = asyncio.create_task(certificate.watch(settings.tls_check_interval_s))
        yield
    finally:
        if listening is not None:
            listening.close()
        if watch is not None:
            watch.cancel()
        await runner.cleanup()


def _limited(
    server: web.Server | None, settings: Settings, connections_max: int, tally: Tally
) -> Callable[[], asyncio.Protocol]:
    """Return a protocol factory that turns connections above the limit away with a 503."""
    assert server is not None
    loop = asyncio.get_running_loop()
    fault = Overloaded("too many connections are open")
    refusal = refusal_text(fault, settings.retry_after_s)
    options: dict[str, Any] = {
        "tally": tally,
        "access_log": None,
        "read_bufsize": READ_BYTES,
        "keepalive_timeout": settings.keepalive_timeout_s,
    }

    limit = min(connections_max, _connections_possible())
    if limit < connections_max:
        logger.info("open files are limited, so connections are connections_max=%d", limit)

    def accept() -> asyncio.Protocol:
        if len(server.connections) >= limit:
            return RefusedConnection(refusal, lambda peer: tally.refused(fault, "other", "", peer))
        return Connection(server, loop=loop, **options)

    return accept


class _Workers:
    """Several processes on one listening socket; the parent only starts, watches and stops them."""

    def __init__(
        self, settings: Settings, listeners: Listeners, on_all_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._on_all_ready = on_all_ready
        self._pids: dict[int, int] = {}
        self._is_stopping = False
        self._parent_fd = self._alive_fd = -1

    def run(self) -> int:
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        self._parent_fd, self._alive_fd = os.pipe()
        ready_fd, report_fd = os.pipe()
        for worker in range(self._settings.workers):
            self._start(worker, report_fd)
        os.close(report_fd)
        # Each worker writes a byte when it is ready; one that dies closes its end without.
        with os.fdopen(ready_fd, "rb", buffering=0) as ready:
            count = 0
            while part := ready.read(self._settings.workers):
                count += len(part)
        if count == self._settings.workers:
            self._on_all_ready()
        return self._watch()

    def _start(self, worker: int, report_fd: int | None) -> None:
        # A stop meets either no child or one that is known.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = -1 if self._is_stopping else os.fork()
            if pid > 0:
                self._pids[pid] = worker
            elif pid == 0:
                self._be_worker(worker, report_fd)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _be_worker(self, worker: int, report_fd: int | None) -> NoReturn:
        """Serve in the child that was just made, and end with it."""
        status = 1
        try:
            os.close(self._alive_fd)
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

            def on_ready() -> None:
                if report_fd is not None:
                    os.write(report_fd, b".")
                    os.close(report_fd)

            status = run_worker(self._settings, self._listeners, worker, on_ready, self._parent_fd)
        except Exception:
            logger.exception("worker failed worker=%d", worker)
        finally:
            logging.shutdown()
            os._exit(status)

    def _watch(self) -> int:
        """Wait for every worker; start those again that died without being asked to."""
        result = 0
        while self._pids:
            pid, wait_status = os.wait()
            worker = self._pids.pop(pid, None)
            if worker is None:
                continue
            status = os.waitstatus_to_exitcode(wait_status)
            if self._is_stopping:
                result = max(result, abs(status))
            elif status in STARTUP_FAILURES:
                result = status
                self._stop()
            else:
                logger.error("worker died, starting it again worker=%d status=%d", worker, status)
                time.sleep(RESTART_DELAY_S)
                self._start(worker, None)
        return result

    def _stop(self, *_signal: object) -> None:
        self._is_stopping = True
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def check_address(settings: Settings) -> None:
    """Learn whether `serve` could listen, without doing it.

    A port that is in use is no fault: most often it is the server that the settings are meant for.

    Raises:
        SegsrvError: An address is not this machine's, or a port is not this user's.

    """
    addresses = [Address(settings.host, settings.port)]
    if settings.ops_listen:
        addresses.append(Address.parse(settings.ops_listen))
    for address in addresses:
        try:
            _bind(address).close()
        except SegsrvError as error:
            cause = error.__cause__
            if not (isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE):
                raise


def _listen(address: Address) -> socket.socket:
    listener = _bind(address)
    try:
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SegsrvError(f"can't listen on {address}: {error.strerror or error}") from error
    return listener


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # The latter for a host with an empty part.
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise SegsrvError(f"can't listen on {address}: {reason}") from error
    return bound


def _raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connections_possible() -> int:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(files - FILES_RESERVED, files // 2)
