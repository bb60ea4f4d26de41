"""The sockets that a server listens on; opened once, and shared by all workers."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from segsrv.addresses import Address
from segsrv.errors import SegsrvError
from segsrv.settings import Settings

BACKLOG = 1_024


class Listeners(NamedTuple):
    """The sockets that every worker accepts from: for clients, and for operators if set apart."""

    public: socket.socket
    ops: socket.socket | None

    def opened(self) -> dict[str, socket.socket]:
        """Return those that there are, by name."""
        return {"public": self.public} | ({"ops": self.ops} if self.ops is not None else {})


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


def listen(address: Address) -> socket.socket:
    """Return a socket that listens on *address*.

    Raises:
        SegsrvError: The address is not this machine's or in use, or the port is not this user's.

    """
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
