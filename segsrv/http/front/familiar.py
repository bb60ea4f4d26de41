"""What matters in a head that is new, where all names in it are known.

Behind a proxy nearly every head is new: it has the client's address, an id of its own, cookies. Of
most of its lines nothing is read. Two heads that differ only in those, and in the address, say the
same of all else, and llhttp has read the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable

NAMES_MAX = 512
NAME_BYTES_MAX = 64
LINES_MAX = 64
CONTROLS = bytes((*range(0x20), 0x7F))

# Bits of the names that may stand in a head once. Nothing is read of the first ones but that.
_ONCE = {
    name: 1 << number
    for number, name in enumerate(
        (
            *(b"content-length", b"content-location", b"content-range", b"content-type"),
            *(b"etag", b"max-forwards", b"server"),
        )
    )
}
_HOST, _CONNECTION, _FORWARDED = 1 << 8, 1 << 9, 1 << 10
_ONCE |= {b"host": _HOST, b"connection": _CONNECTION}
# What these say matters.
_READ = {
    name: 1 << number
    for number, name in enumerate(
        (
            *(b"authorization", b"x-write-key", b"x-auth-token", b"api_key"),
            *(b"user-agent", b"origin"),
        ),
        11,
    )
}
_NEVER = frozenset((b"content-encoding",))
MATTERING_NAMES = frozenset((*_READ, *_NEVER))
"""Of all that is read, beside the header with the client's address."""


class Familiar:
    """Knows names of headers, as they were written in heads that llhttp has read.

    *forwarded_name* is that of the header which holds the client's address.
    """

    def __init__(self, forwarded_name: str, odd_names: Iterable[str]) -> None:
        forwarded = forwarded_name.lower().encode()
        self._bits = _ONCE | _READ
        self._never = _NEVER.union(name.encode() for name in odd_names)
        # One that says something else too is for llhttp.
        self._is_idle = forwarded in self._bits or forwarded in self._never
        self._bits[forwarded] = _FORWARDED
        self._known: dict[bytes, int] = {}

    def learn(self, head: bytes) -> None:
        """Learn the names in a plain *head*."""
        for line in head.split(b"\r\n")[1:-2]:
            name = line.partition(b":")[0]
            lower = name.lower()
            if len(name) > NAME_BYTES_MAX or lower in self._never or self._is_idle:
                continue
            if len(self._known) >= NAMES_MAX:
                self._known.clear()
            self._known[name] = self._bits.get(lower, 0)

    def essence(self, head: bytes) -> tuple[bytes, bytes] | None:
        """Return the lines of *head* that matter, and the value of the header with the address.

        None unless all its lines are of the plainest form. *head* is whole, its `Content-Length`
        has digits, and whether its first line is sound is for llhttp to say, once.
        """
        lines = head.split(b"\r\n")
        if (
            len(lines) > LINES_MAX
            # Line ends are all there may be of control characters.
            or len(head.translate(None, CONTROLS)) != len(head) - 2 * (len(lines) - 1)
            or not head.isascii()
        ):
            return None
        known, seen, forwarded = self._known, 0, b""
        read = [lines[0]]
        for line in lines[1:-2]:
            name, _colon, value = line.partition(b": ")
            bit = known.get(name)
            if bit is None or not value:
                return None
            if bit:
                if seen & bit or (bit == _CONNECTION and value.lower() != b"keep-alive"):
                    return None
                seen |= bit
                if bit == _FORWARDED:
                    forwarded = value
                elif bit > _FORWARDED:
                    read.append(line)
        return (b"\n".join(read), forwarded) if seen & _HOST else None
