"""How much of bodies may be in memory before they are parsed, over all connections."""

from __future__ import annotations

from segsrv.errors import BadRequest, Overloaded, Unavailable


class BodyTimeout(Unavailable):
    """The body did not arrive in time; a client on a bad line should try again."""

    code = "body_timeout"


class Receiving:
    """Counts the bytes of bodies that are read, or wait for their turn; one for all connections."""

    def __init__(self, *, body_bytes_max: int, reading_bytes_max: int, timeout_s: float) -> None:
        self.bytes = 0
        self.body_bytes_max = body_bytes_max
        self.timeout_s = timeout_s
        self._reading_bytes_max = reading_bytes_max

    def check_announced(self, size: int) -> None:
        """Refuse a body for its Content-Length.

        Raises:
            BadRequest: It is over the limit.

        """
        if size > self.body_bytes_max:
            raise BadRequest(
                f"the body has {size} bytes, the limit is {self.body_bytes_max}",
                code="body_too_large",
            )

    def add(self, size: int) -> None:
        """Count *size* bytes more; whoever calls gives them back, also when this raises.

        Raises:
            Overloaded: All bodies together are over the limit.

        """
        self.bytes += size
        if self.bytes > self._reading_bytes_max:
            raise Overloaded(
                f"{self.bytes} bytes of bodies are being received, "
                f"the limit is {self._reading_bytes_max}"
            )

    def give_back(self, size: int) -> None:
        """Take *size* bytes off the count."""
        self.bytes -= size

    def too_large(self) -> BadRequest:
        return BadRequest(
            f"the body has more than {self.body_bytes_max} bytes after decompression, "
            "which is the limit",
            code="body_too_large",
        )

    def too_slow(self, size: int) -> BodyTimeout:
        return BodyTimeout(
            f"the body was not complete after {self.timeout_s:g} s ({size} bytes came)"
        )
