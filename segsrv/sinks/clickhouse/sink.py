"""Inserts events into a table of ClickHouse, each exactly once where the server can tell.

* A batch is one INSERT of one block. The server parses and checks all of it before it stores any,
  so a refused one leaves nothing behind.
* The INSERT's `insert_deduplication_token` is the batch's id. A batch that comes again, after a
  time-out or a crash, is known by it in each of the partitions that its events belong to, and what
  is there already is not stored again. That holds for as many of the table's last inserts as its
  `non_replicated_deduplication_window` (or `replicated_…`) says.
* Its `query_id` is the batch's id as well: while a try that was given up still runs, the server
  refuses to begin the same again.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from segsrv.errors import SegsrvError, SinkMisconfigured, SinkRejected
from segsrv.events.columns import EVENT
from segsrv.journal.facts import Facts
from segsrv.sinks.base import Batch, Placement
from segsrv.sinks.clickhouse import sql
from segsrv.sinks.clickhouse.answers import MissingTable
from segsrv.sinks.clickhouse.http import Http
from segsrv.sinks.clickhouse.rows import encode, reader

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

logger = logging.getLogger(__name__)

ROWS_MAX = 10_000_001
"""More than a batch can hold, so that it is one block."""
NAMED_IN_A_ROW_MAX = 8
ZSTD_LEVEL = 1
TOKEN = "insert_deduplication_token"  # noqa: S105 - No secret.
AS_OBJECTS = "input_format_json_read_objects_as_strings"
SETTINGS = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_insert": "enable",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "input_format_allow_errors_num": "0",
    "input_format_allow_errors_ratio": "0",
    "input_format_defaults_for_omitted_fields": "1",
    "input_format_parallel_parsing": "0",
    "input_format_skip_unknown_fields": "0",
    AS_OBJECTS: "1",
    "max_insert_block_size": str(ROWS_MAX),
    "max_insert_block_size_bytes": "0",
    "min_insert_block_size_rows": str(ROWS_MAX),
    "min_insert_block_size_bytes": "0",
}
"""With each INSERT, those that the server knows: profiles and releases have other defaults."""
_NEEDS = ("JSONExtractRaw", "parseDateTime64BestEffortOrNull")


@dataclass(slots=True)
class ClickhouseStats:
    """Plain counters of one sink."""

    inserts: int = 0
    body_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """What the server can do."""

    settings: frozenset[str]
    has_functions: bool

    @property
    def is_modern(self) -> bool:
        return self.has_functions and TOKEN in self.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How rows are made for the table as it was read last."""

    insert: str
    settings: dict[str, str]
    readers: list[tuple[str, Callable[[Facts], Any]]]
    has_token: bool


class _Look(NamedTuple):
    """What was found: `layout` is None while there is no table, `warning` empty if all is well."""

    layout: _Layout | None
    warning: str


class ClickhouseSink:
    """One table on one server; `address` is for people, and holds no user or password."""

    def __init__(
        self,
        http: Http,
        *,
        where: str,
        address: str,
        database: str,
        table: str,
        create: bool,
        window: int,
        compress: str,
    ) -> None:
        self.stats = ClickhouseStats()
        self._http = http
        self._where = where
        self._address = address
        self._database = database
        self._table_name = table
        self._table = f"{sql.quoted(database)}.{sql.quoted(table)}"
        self._create = create
        self._window = window
        self._encoding = "" if compress == "none" else compress
        self._layout: _Layout | None = None
        self._warned = ""
        self._named_in_a_row = 0
        # One thread: rows are made beside the loop, of one batch at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segsrv-clickhouse")

    async def check(self) -> Sequence[str]:
        look: _Look = await self._said(self._look(may_create=False))
        return [look.warning] if look.warning else []

    async def open(self) -> None:
        await self._said(self._reopen())

    async def plan(self, _batch: Batch, _last: Placement) -> Placement:
        return {}  # The batch's id is enough.

    async def send(self, batch: Batch, _placement: Placement) -> None:
        await self._said(self._send(batch))

    async def close(self) -> None:
        await self._http.close()
        self._thread.shutdown(wait=False)

    def describe(self) -> str:
        return f"{self._address}, table {self._table_name}"

    async def _said(self, work: Any) -> Any:
        """Await *work*; its errors then say which table they are about."""
        try:
            return await work
        except SegsrvError as error:
            error.args = (f"{self._where}: {self._address}: {error}",)
            error.log_text = str(error)
            raise

    async def _send(self, batch: Batch) -> None:
        layout = self._layout or await self._reopen()
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._thread, self._body, batch, layout)
        own = {"query_id": batch.id}
        if layout.has_token:
            own[TOKEN] = batch.id
        try:
            await self._insert(layout, body, own)
        except SinkMisconfigured:
            # The table or the server may have changed since it was looked at.
            self._layout = None
            raise
        except SinkRejected as error:
            self._named_in_a_row += bool(error.indexes)
            if self._named_in_a_row > NAMED_IN_A_ROW_MAX:
                # The server names one row a try; where many are bad, halves get there sooner.
                error.indexes = ()
            raise
        self._named_in_a_row = 0
        self.stats.inserts += 1
        self.stats.body_bytes += len(body)

    def _body(self, batch: Batch, layout: _Layout) -> bytes:
        body = encode(
            batch.lines(),
            batch.facts,
            layout.readers,
            as_objects=AS_OBJECTS in layout.settings,
            as_array=layout.has_token,
        )
        return self._packed(body)

    def _packed(self, body: bytes) -> bytes:
        return zstd.compress(body, ZSTD_LEVEL) if self._encoding else body

    async def _reopen(self) -> _Layout:
        look = await self._look(may_create=self._create)
        assert look.layout is not None, "a missing table was made, or an error says it is missing"
        if look.warning != self._warned:
            self._warned = look.warning
            if look.warning:
                logger.warning("sink: %s", look.warning)
        self._layout = look.layout
        return look.layout

    async def _look(self, *, may_create: bool) -> _Look:
        """Learn what the server and the table are like; a missing one is made with *may_create*."""
        server = await self._server()
        types = await self._types(server, may_create=may_create)
        if types is None:
            return _Look(None, "")
        layout = self._layout_of(server, types)
        # Inserts nothing: it asks whether that is allowed, and understood.
        await self._insert(layout, self._packed(b"[]" if layout.has_token else b""), {})
        doubt = await self._doubt(server)
        return _Look(layout, f"{self._where}: {self._address}: {doubt}" if doubt else "")

    async def _server(self) -> _Server:
        rows = await self._rows(sql.known_names([*SETTINGS, TOKEN, *_NEEDS]))
        known = {row["name"] for row in rows}
        return _Server(
            settings=frozenset(known.difference(_NEEDS)), has_functions=known.issuperset(_NEEDS)
        )

    async def _types(self, server: _Server, *, may_create: bool) -> dict[str, str] | None:
        """Return the types of the columns that can be inserted; None if there is no table."""
        statement = f"DESCRIBE TABLE {self._table}"
        try:
            rows = await self._rows(statement)
        except MissingTable as error:
            create = sql.create_table(self._table, self._window, is_modern=server.is_modern)
            if not self._create:
                raise MissingTable(f"missing table, to be made by: {create}") from error
            if not may_create:
                return None
            await self._http.ask(create)
            rows = await self._rows(statement)
        computed = ("MATERIALIZED", "ALIAS")
        return {row["name"]: row["type"] for row in rows if row["default_type"] not in computed}

    def _layout_of(self, server: _Server, types: dict[str, str]) -> _Layout:
        if not sql.holds_events(types.get(EVENT, "")):
            raise SinkMisconfigured(
                f"table {self._table_name} has no column {EVENT} of the type String"
            )
        readers = []
        for name in sql.FACT_NAMES:
            if name in types:
                read = reader(name, types[name])
                if read is None:
                    raise SinkMisconfigured(
                        f"table {self._table_name}: column {name} can't be of the type "
                        f"{types[name]}, expected {sql.FACT_TYPES[name]}"
                    )
                readers.append((name, read))
        return _Layout(
            insert=sql.insert_into(self._table, [*dict(readers), EVENT]),
            settings={name: SETTINGS[name] for name in SETTINGS if name in server.settings},
            readers=readers,
            has_token=TOKEN in server.settings,
        )

    async def _doubt(self, server: _Server) -> str:
        """Return why a batch that comes again would be stored again; empty if it is not."""
        if TOKEN not in server.settings:
            return "the server is too old to know a batch that comes again, which is then doubled"
        rows = await self._rows(sql.engine_of(self._database, self._table_name))
        if not rows:
            return ""  # Not for this user to see.
        engine, full = rows[0]["engine"], rows[0]["engine_full"]
        setting = sql.window_setting(engine)
        if not setting:
            return f"a table of the engine {engine} may not know a batch that comes again"
        window = sql.window_of(setting, full)
        if window is None:
            known = await self._rows(sql.default_of(setting))
            window = int(known[0]["value"]) if known else 0
        if window:
            return ""
        return (
            f"table {self._table_name} has no {setting}, so a batch that comes again is doubled; "
            f"run ALTER TABLE {self._table} MODIFY SETTING {setting} = {self._window}"
        )

    async def _insert(self, layout: _Layout, body: bytes, more: dict[str, str]) -> None:
        answer = await self._http.ask(
            layout.insert,
            settings=layout.settings | more,
            body=body,
            encoding=self._encoding,
            may_reject=bool(more),
        )
        if answer:
            raise SinkMisconfigured("what answers to an INSERT is not ClickHouse")

    async def _rows(self, statement: str) -> list[dict[str, Any]]:
        answer = await self._http.ask(f"{statement} FORMAT JSONEachRow")
        try:
            return [orjson.loads(line) for line in answer.splitlines()]
        except ValueError:
            raise SinkMisconfigured("what answers is not ClickHouse") from None
