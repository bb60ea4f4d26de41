"""One worker: the process that takes requests, from its start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import uvloop
from aiohttp import web

from segsrv import allocator
from segsrv.app import INGEST, KEY_WATCH, STATION, create_app, create_ops_app
from segsrv.board import Board
from segsrv.errors import Overloaded, SegsrvError
from segsrv.http.connection import Connection
from segsrv.http.front.front import Front
from segsrv.http.ingest import Ingest
from segsrv.http.refused_connection import RefusedConnection, refusal_text
from segsrv.http.tally import TALLY, Tally
from segsrv.process.accepting import Acceptor
from segsrv.process.asked import Asked
from segsrv.process.children import Start
from segsrv.process.listening import Listeners
from segsrv.process.open_files import Room, ops_room, public_room
from segsrv.process.roster import Place
from segsrv.rates import Rates
from segsrv.settings import Settings
from segsrv.tls import Certificate
from segsrv.write_keys import KeySource

logger = logging.getLogger(__name__)

READ_BYTES = 64 << 10
SWITCH_INTERVAL_S = 0.001
"""How long a thread that comes back from a write waits for a busy event loop to let it go on.

With the interpreter's own 5 ms, commits and deliveries fall behind the loop that feeds them.
"""

LAST_REQUESTS_S = 0.1
"""At a stop, what new connections have sent by then is read and answered; idle ones are closed."""


class Shared(NamedTuple):
    """What all processes of a server have in common; None where there is but one."""

    board: Board | None = None
    rates: Rates | None = None
    source: KeySource | None = None


def run_worker(
    settings: Settings,
    listeners: Listeners,
    shared: Shared,
    worker: int,
    start: Start,
) -> int:
    """Serve in this process until it is told to stop; return the exit status.

    With a board, another process delivers.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listeners, shared, worker, start))
    except SegsrvError as error:
        if not start.is_quiet:
            print(f"segsrv: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


async def _serve(
    settings: Settings, listeners: Listeners, shared: Shared, worker: int, start: Start
) -> None:
    asked = Asked(start)
    asked.listen()
    loop = asyncio.get_running_loop()
    certificate = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificate = Certificate(settings.tls_cert, settings.tls_key)
    app = create_app(
        settings, worker=worker, board=shared.board, rates=shared.rates, source=shared.source
    )
    loop.add_signal_handler(signal.SIGHUP, app[KEY_WATCH].ask)
    tally, station = app[TALLY], app[STATION]

    def close() -> None:
        # Called in the thread that delivers.
        loop.call_soon_threadsafe(asked.stop.set)

    station.on_closed = close
    async with contextlib.AsyncExitStack() as stack:
        if listeners.ops is not None:
            # First, so that it ends last: operators want to see how a stop goes on.
            ops = create_ops_app(app)
            await stack.enter_async_context(
                _listening(ops, settings, listeners.ops, ops_room, tally)
            )

        def room() -> Room:
            return _public_room(settings)

        await stack.enter_async_context(
            _listening(app, settings, listeners.public, room, tally, certificate, start.place)
        )
        allocator.collect_seldom()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        logger.info("started worker=%d pid=%d", worker, os.getpid())
        trimming = asyncio.create_task(allocator.trim_for_ever(), name="segsrv-trim")
        start.on_ready()
        await asked.wait()
        trimming.cancel()
        logger.info("stopping worker=%d", worker)
        if station.delivery is not None and station.delivery.is_closed:
            raise station.delivery.closed_error()
    await asked.finish()


@contextlib.asynccontextmanager
async def _listening(
    app: web.Application,
    settings: Settings,
    listener: socket.socket,
    find_room: Callable[[], Room],
    tally: Tally,
    certificate: Certificate | None = None,
    place: Place | None = None,
) -> AsyncIterator[None]:
    """Start *app* and take its requests from *listener*; at the end stop both in order.

    *find_room* is called when all files of the application are open. With *place* the connections
    are shared with other workers.
    """
    runner = web.AppRunner(app, shutdown_timeout=settings.shutdown_grace_s)
    await runner.setup()
    server = runner.server
    assert server is not None
    # Other applications take no events.
    ingest = app.get(INGEST) if settings.front == "raw" else None
    watch = None
    try:
        room = find_room()
        context = certificate.context if certificate else None
        accept = _limited(server, settings, room, tally, ingest)
        async with _accepting(server, accept, listener, room, context, place):
            if certificate is not None:
                watch = asyncio.create_task(certificate.watch(settings.tls_check_interval_s))
            yield
    finally:
        if watch is not None:
            watch.cancel()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _accepting(
    server: web.Server,
    accept: Callable[[], asyncio.Protocol],
    listener: socket.socket,
    room: Room,
    context: ssl.SSLContext | None,
    place: Place | None,
) -> AsyncIterator[None]:
    """Take connections from *listener*, each with what *accept* returns."""
    if place is None:
        listening = await asyncio.get_running_loop().create_server(
            accept, sock=listener, backlog=room.backlog, ssl=context
        )
        try:
            yield
        finally:
            listening.close()
            await asyncio.sleep(LAST_REQUESTS_S)
        return

    def count() -> int:
        return len(server.connections)

    listener.listen(room.backlog)
    acceptor = Acceptor(
        *(listener, accept),
        count=count,
        place=place,
        beginning_max=room.backlog,
        context=context,
    )
    keeping = asyncio.create_task(place.keep(lambda: acceptor.held), name="segsrv-place")
    acceptor.start()
    try:
        yield
    finally:
        acceptor.close()
        keeping.cancel()
        await acceptor.wait_closed()
        await asyncio.sleep(LAST_REQUESTS_S)


def _public_room(settings: Settings) -> Room:
    room = public_room(settings)
    if room.connections >= settings.connections_max:
        return room._replace(connections=settings.connections_max)
    logger.info(
        "open files are limited, and so are connections connections_max=%d", room.connections
    )
    return room


def _limited(
    server: web.Server, settings: Settings, room: Room, tally: Tally, ingest: Ingest | None
) -> Callable[[], asyncio.Protocol]:
    """Return a protocol factory that turns connections above the limit away with a 503."""
    loop = asyncio.get_running_loop()
    fault = Overloaded("too many connections are open")
    refusal = refusal_text(fault, settings.retry_after_s)
    options: dict[str, Any] = {
        "tally": tally,
        "access_log": None,
        "read_bufsize": READ_BYTES,
        "keepalive_timeout": settings.keepalive_timeout_s,
    }

    front = None if ingest is None else Front(server, ingest, settings, loop, options)

    def count(peer: str) -> None:
        tally.refused(fault, "other", "", peer)

    def accept() -> asyncio.Protocol:
        if len(server.connections) >= room.connections:
            return RefusedConnection(refusal, count, waiting_max=room.refusals)
        if front is not None:
            return front()
        return Connection(server, loop=loop, **options)

    return accept
