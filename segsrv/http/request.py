"""What a request's head says, whichever server has read it."""

from __future__ import annotations

from multidict import MultiDict, MultiMapping
from yarl import URL

NO_QUERY: MultiMapping[str] = MultiDict()


Headers = MultiMapping[str]
"""Names are found in any letter case."""


class Request:
    """A head, without its body. Nobody changes it.

    `path` is without its escapes, `raw_query` as it was sent. `headers` hold bytes that are no
    UTF-8 as surrogate escapes. `peer` is the address at the other end of the connection, empty
    where it has none.
    """

    __slots__ = ("_query", "headers", "method", "path", "peer", "raw_query")

    def __init__(self, method: str, path: str, raw_query: str, headers: Headers, peer: str) -> None:
        self.method = method
        self.path = path
        self.raw_query = raw_query
        self.headers = headers
        self.peer = peer
        self._query: MultiMapping[str] | None = None

    @property
    def query(self) -> MultiMapping[str]:
        """The parameters, in their order, without their escapes."""
        if not self.raw_query:
            return NO_QUERY
        if self._query is None:
            self._query = URL.build(query_string=self.raw_query, encoded=True).query
        return self._query
