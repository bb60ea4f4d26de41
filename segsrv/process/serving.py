"""`segsrv serve`: which processes a server is made of, and their start."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

from segsrv.addresses import Address
from segsrv.board import Board, BoardFiles
from segsrv.errors import SegsrvError
from segsrv.ops.token import kept_token
from segsrv.process import handover
from segsrv.process.children import Child, Start
from segsrv.process.delivering import run_delivery
from segsrv.process.listening import Listeners, listen
from segsrv.process.open_files import check_files, raise_file_limit
from segsrv.process.roster import Roster
from segsrv.process.succession import Succession
from segsrv.process.supervisor import Supervisor
from segsrv.process.worker import Shared, run_worker
from segsrv.rates import Rates
from segsrv.settings import Settings
from segsrv.write_keys import KeySource, with_keys

logger = logging.getLogger(__name__)

BOARD_FILES = ("board_memory", "board_wake", "board_waker")
STOP_MARGIN_S = 5.0
"""What a process may take beyond its grace period before it counts as hung."""


def serve(
    settings: Settings,
    announce: Callable[[str, Settings], None],
    source: KeySource | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    *announce* is called once, when every worker takes requests, with the address and the settings;
    they have their keys, and in `ops_listen` the port that was picked. It is not when this program
    takes over from one before it in the same process, or only rehearses that. New keys are read
    from *source* while it runs.
    """
    if signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        # Until there is somebody for it, or it would end the server. One that is held was meant for
        # the program before, and for what is installed by now.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise_file_limit()
    check_files(settings)
    handed = handover.take()
    if handed is not None:
        handed.check(settings)
        if handed.is_rehearsal:
            return 0
    successor = handover.Successor(settings)
    with contextlib.ExitStack() as stack:
        listeners = _listeners(stack, settings, handed)
        # Only now: a start that fails for its port should leave no key that nobody was told.
        settings = _settled(settings, listeners)

        def on_all_ready() -> None:
            if handed is None:
                port = listeners.public.getsockname()[1]
                scheme = "https" if settings.tls_cert else "http"
                announce(f"{scheme}://{Address(settings.host, port)}", settings)
            else:
                logger.info("restarted in place pid=%d", os.getpid())

        if settings.workers == 1 and not delivers_apart(settings):
            return _serve_alone(settings, listeners, source, successor, on_all_ready)
        successor.files = {name: one.fileno() for name, one in listeners.opened().items()}
        board = None
        if delivers_apart(settings):
            board_files = BoardFiles(*handed.some_files(BOARD_FILES)) if handed else None
            board = stack.enter_context(contextlib.closing(Board(settings.workers, board_files)))
            successor.files |= zip(BOARD_FILES, board.files, strict=True)
        rates_fd = handed.files["rates"] if handed else None
        rates = stack.enter_context(contextlib.closing(Rates(rates_fd)))
        successor.files["rates"] = rates.memory_fd
        found = children(settings, listeners, Shared(board, rates, source))
        memory_fd = handed.files["roster"] if handed else None
        roster = stack.enter_context(contextlib.closing(Roster(len(found), memory_fd)))
        successor.files["roster"] = roster.memory_fd
        return Supervisor(
            *(found, on_all_ready), roster=roster, succession=Succession(successor), handed=handed
        ).run()


def _settled(settings: Settings, listeners: Listeners) -> Settings:
    """Return *settings* with the port that was picked, and with a key; a first start makes it."""
    if listeners.ops is not None:
        address = Address.parse(settings.ops_listen)
        address = address._replace(port=listeners.ops.getsockname()[1])
        settings = dataclasses.replace(settings, ops_listen=str(address))
        # Before there are workers that would each make one.
        kept_token(settings)
    return with_keys(settings)


def _listeners(
    stack: contextlib.ExitStack, settings: Settings, handed: handover.Handover | None
) -> Listeners:
    """Open the sockets for clients and for operators, or find them open; *stack* closes them."""

    def opened(name: str, address: Address) -> socket.socket:
        if handed is not None:
            found = stack.enter_context(socket.socket(fileno=handed.files[name]))
            found.setblocking(False)
            return found
        return stack.enter_context(listen(address))

    public = opened("public", Address(settings.host, settings.port))
    if not settings.ops_listen:
        return Listeners(public, None)
    return Listeners(public, opened("ops", Address.parse(settings.ops_listen)))


def _serve_alone(
    settings: Settings,
    listeners: Listeners,
    source: KeySource | None,
    successor: handover.Successor,
    on_all_ready: Callable[[], None],
) -> int:
    """Be the only worker, in this process; return the exit status."""
    with contextlib.ExitStack() as kept:
        # The worker's loop closes the sockets that it listens on.
        successor.files = {
            name: kept.enter_context(listener.dup()).fileno()
            for name, listener in listeners.opened().items()
        }
        alone = Start(on_all_ready, stop_s_max=worker_stop_s_max(settings), successor=successor)
        status = run_worker(settings, listeners, Shared(source=source), 0, alone)
        if status == 0 and successor.is_due:
            try:
                successor.execute()
            except OSError as error:
                raise SegsrvError(f"the command can't be run again: {error}") from error
        return status


def delivers_apart(settings: Settings) -> bool:
    """Say whether delivery is a process of its own, for all workers."""
    if settings.delivery == "auto":
        return settings.workers > 1
    return settings.delivery == "process"


def worker_stop_s_max(settings: Settings) -> float:
    """Return how long a worker may take to stop."""
    # Requests in flight get the grace period, and after them the sinks.
    return 2 * settings.shutdown_grace_s + STOP_MARGIN_S


def children(settings: Settings, listeners: Listeners, shared: Shared) -> list[Child]:
    """Return the processes that a server consists of, apart from their parent.

    With a board one of them delivers for all workers.
    """
    found = [
        Child(
            f"w{number}",
            partial(run_worker, settings, listeners, shared, number),
            stop_s_max=worker_stop_s_max(settings),
        )
        for number in range(settings.workers)
    ]
    if shared.board is not None:
        found.append(
            Child(
                "delivery",
                partial(run_delivery, settings, shared.board, shared.source),
                stop_s_max=settings.shutdown_grace_s + STOP_MARGIN_S,
                is_needed=False,
                is_last=True,
            )
        )
    return found
