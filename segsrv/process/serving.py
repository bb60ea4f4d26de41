"""`segsrv serve`: which processes a server is made of, and their start."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial

from segsrv.addresses import Address
from segsrv.board import Board
from segsrv.process.delivering import run_delivery
from segsrv.process.listening import Listeners, listen
from segsrv.process.open_files import check_files, raise_file_limit
from segsrv.process.supervisor import Child, Start, Supervisor
from segsrv.process.worker import run_worker
from segsrv.settings import Settings
from segsrv.write_keys import with_keys

STOP_MARGIN_S = 5.0
"""What a process may take beyond its grace period before it counts as hung."""


def serve(settings: Settings, announce: Callable[[str, Settings], None]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    *announce* is called once, when every worker takes requests, with the address and the settings;
    they have their keys, and in `ops_listen` the port that was picked.
    """
    raise_file_limit()
    check_files(settings)
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(listen(Address(settings.host, settings.port)))
        address = Address(settings.host, public.getsockname()[1])
        url = f"{'https' if settings.tls_cert else 'http'}://{address}"
        ops = None
        if settings.ops_listen:
            ops_address = Address.parse(settings.ops_listen)
            ops = stack.enter_context(listen(ops_address))
            ops_address = ops_address._replace(port=ops.getsockname()[1])
            settings = dataclasses.replace(settings, ops_listen=str(ops_address))
        listeners = Listeners(public, ops)
        # Only now: a start that fails for its port should leave no key that nobody was told.
        settings = with_keys(settings)

        def on_all_ready() -> None:
            announce(url, settings)

        board = None
        if delivers_apart(settings):
            board = stack.enter_context(contextlib.closing(Board(settings.workers)))
        elif settings.workers == 1:
            alone = Start(on_all_ready, stop_s_max=worker_stop_s_max(settings))
            return run_worker(settings, listeners, None, 0, alone)
        return Supervisor(children(settings, listeners, board), on_all_ready).run()


def delivers_apart(settings: Settings) -> bool:
    """Say whether delivery is a process of its own, for all workers."""
    if settings.delivery == "auto":
        return settings.workers > 1
    return settings.delivery == "process"


def worker_stop_s_max(settings: Settings) -> float:
    """Return how long a worker may take to stop."""
    # Requests in flight get the grace period, and after them the sinks.
    return 2 * settings.shutdown_grace_s + STOP_MARGIN_S


def children(settings: Settings, listeners: Listeners, board: Board | None) -> list[Child]:
    """Return the processes that a server consists of, apart from their parent.

    With *board* one of them delivers for all workers.
    """
    found = [
        Child(
            f"w{number}",
            partial(run_worker, settings, listeners, board, number),
            stop_s_max=worker_stop_s_max(settings),
        )
        for number in range(settings.workers)
    ]
    if board is not None:
        found.append(
            Child(
                "delivery",
                partial(run_delivery, settings, board),
                stop_s_max=settings.shutdown_grace_s + STOP_MARGIN_S,
                is_needed=False,
                is_last=True,
            )
        )
    return found
