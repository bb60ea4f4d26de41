"""Addresses to listen on, as people write them: `HOST:PORT`, with an IPv6 host in brackets."""

from __future__ import annotations

import re
from typing import NamedTuple

from segsrv.errors import SettingsError

PORT_MAX = 65_535
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", re.ASCII)


class Address(NamedTuple):
    """A host without brackets and a port; port 0 picks a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`.

        Raises:
            ValueError: It is something else.

        """
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > PORT_MAX:
            raise ValueError("expected HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090")
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def check_ops_listen(text: str, public_port: int) -> None:
    """Make sure that *text* is empty, or an address with another port than the public one.

    Raises:
        SettingsError: It is not.

    """
    if not text:
        return
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise SettingsError(f"ops_listen={text}: {error}") from error
    if address.port and address.port == public_port:
        raise SettingsError(f"ops_listen={text}: port={public_port} is the public one; use another")
