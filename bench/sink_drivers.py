"""Each sink's library by itself: bare calls, given the batches that the sink would get.

What a driver is given is encoded as its sink encodes it, in the cheapest way that is known here.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson

from segsrv.files import make_dir, write_all
from segsrv.journal.facts import Facts
from segsrv.sinks.file.sink import root_of
from segsrv.sinks.kind import SinkSpec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSION_LEVEL = 3
KAFKA_FLUSH_S = 60.0


class Given(NamedTuple):
    """One batch, read and taken apart."""

    id: str
    content: bytes
    lines: list[bytes]
    facts: Sequence[Facts]


class Driver(Protocol):
    """Bare calls of a library; `encode` makes what it takes of a batch."""

    def __init__(self, spec: SinkSpec) -> None: ...

    async def open(self) -> None: ...

    def encode(self, given: Given) -> Any: ...

    async def send(self, encoded: Any) -> None:
        """Return when the other side has it, as safely as the sink asks for."""

    async def close(self) -> None: ...


class FileDriver:
    """Appends to one file and waits for the disk, in a thread."""

    def __init__(self, spec: SinkSpec) -> None:
        self._root = root_of(spec.url, spec.settings)
        self._fd = -1

    async def open(self) -> None:
        make_dir(self._root)
        self._fd = os.open(self._root / "bench.ndjson", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def encode(self, given: Given) -> bytes:
        return given.content

    async def send(self, encoded: bytes) -> None:
        await asyncio.to_thread(self._append, encoded)

    def _append(self, data: bytes) -> None:
        write_all(self._fd, [data])
        os.fdatasync(self._fd)

    async def close(self) -> None:
        os.close(self._fd)


class KafkaDriver:
    """confluent-kafka: one record an event, then it waits for all of them."""

    def __init__(self, spec: SinkSpec) -> None:
        parts = urlsplit(spec.url)
        self._topic = parts.path.strip("/")
        self._is_transactional = spec.options.mode == "transactional"
        self._config = {
            "bootstrap.servers": parts.netloc,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": spec.options.compression,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1 << 20,
            "batch.size": 1_000_000,
            "delivery.report.only.error": True,
            "log_level": 3,
            "on_delivery": _fail,
        }
        if self._is_transactional:
            self._config["transactional.id"] = "bench"
        self._producer: Any = None

    async def open(self) -> None:
        from confluent_kafka import Producer  # noqa: PLC0415 - Where it is measured.

        self._producer = Producer(self._config)
        if self._is_transactional:
            self._producer.init_transactions()

    def encode(self, given: Given) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
        values = given.content.split(b"\n")
        known = {text: text.encode() for text in {part for f in given.facts for part in f[:4:3]}}
        return [
            (
                value,
                [
                    ("event_id", event_id.encode()),
                    ("type", known[kind]),
                    ("key_id", known[key_id]),
                    ("format", output.encode()),
                    ("received_ms", b"%d" % received_ms),
                ],
            )
            for value, (key_id, output, received_ms, kind, _length, event_id) in zip(
                values, given.facts, strict=False
            )
        ]

    async def send(self, encoded: list[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
        await asyncio.to_thread(self._send, encoded)

    def _send(self, encoded: list[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
        producer, topic = self._producer, self._topic
        if self._is_transactional:
            producer.begin_transaction()
        for value, headers in encoded:
            producer.produce(topic, value, headers=headers)
        assert not producer.flush(KAFKA_FLUSH_S)
        if self._is_transactional:
            producer.commit_transaction()

    async def close(self) -> None:
        self._producer = None


def _fail(error: Any, _message: Any) -> None:
    raise RuntimeError(f"a record was not taken: {error}")


class S3Driver:
    """obstore: one object a batch, compressed in a thread."""

    def __init__(self, spec: SinkSpec) -> None:
        self._spec = spec
        self._store: Any = None

    async def open(self) -> None:
        from obstore.store import S3Store  # noqa: PLC0415 - Where it is measured.

        parts, secrets = urlsplit(self._spec.url), self._spec.secrets
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=self._spec.options.endpoint,
            access_key_id=secrets["access_key_id"],
            secret_access_key=secrets["secret_access_key"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def encode(self, given: Given) -> tuple[str, bytes]:
        at = datetime.fromtimestamp(given.facts[0].received_ms / 1_000, UTC)
        key = f"dt={at:%Y-%m-%d}/hour={at:%H}/{given.id}.ndjson.zst"
        return key, zstd.compress(given.content, COMPRESSION_LEVEL)

    async def send(self, encoded: tuple[str, bytes]) -> None:
        await self._store.put_async(*encoded, mode="create", use_multipart=False)

    async def close(self) -> None:
        self._store = None


class WebhookDriver:
    """aiohttp: one request a batch."""

    def __init__(self, spec: SinkSpec) -> None:
        self._url = spec.url
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(headers={"Content-Type": "application/x-ndjson"})

    def encode(self, given: Given) -> tuple[dict[str, str], bytes]:
        return {"Idempotency-Key": given.id, "Webhook-Id": given.id}, given.content

    async def send(self, encoded: tuple[dict[str, str], bytes]) -> None:
        assert self._session is not None
        headers, body = encoded
        async with self._session.post(self._url, headers=headers, data=body) as answer:
            await answer.read()
            answer.raise_for_status()

    async def close(self) -> None:
        assert self._session is not None
        await self._session.close()


class ClickhouseDriver:
    """aiohttp: one INSERT a batch, of rows as JSON."""

    def __init__(self, spec: SinkSpec) -> None:
        parts = urlsplit(spec.url)
        self._url = f"http://{parts.hostname}:{parts.port}/"
        self._user = parts.username or "default"
        self._database = parts.path.strip("/") or "default"
        self._table = spec.options.table
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(headers={"X-ClickHouse-User": self._user})

    def encode(self, given: Given) -> tuple[str, bytes]:
        dumps = orjson.dumps
        rows = [
            b'{"event_id":%b,"received_at":%d.%03d,"type":"%b","format":"%b","key_id":%b,"event":%b}'
            % (
                dumps(event_id),
                *divmod(received_ms, 1_000),
                kind.encode(),
                output.encode(),
                dumps(key_id),
                line,
            )
            for line, (key_id, output, received_ms, kind, _length, event_id) in zip(
                given.lines, given.facts, strict=True
            )
        ]
        return given.id, b"".join(rows)

    async def send(self, encoded: tuple[str, bytes]) -> None:
        assert self._session is not None
        batch_id, body = encoded
        table = f"`{self._database}`.`{self._table}`"
        query = {
            "query": f"INSERT INTO {table} (event_id, received_at, type, format, key_id, event) "
            "FORMAT JSONEachRow",
            "insert_deduplication_token": batch_id,
            "input_format_json_read_objects_as_strings": "1",
            "max_insert_block_size": str(10_000_000),
            "min_insert_block_size_rows": str(10_000_000),
            "min_insert_block_size_bytes": "0",
            "async_insert": "0",
            "wait_end_of_query": "1",
        }
        async with self._session.post(self._url, params=query, data=body) as answer:
            text = await answer.text()
            assert answer.status == 200, text[:1_000]

    async def close(self) -> None:
        assert self._session is not None
        await self._session.close()


class PostgresqlDriver:
    """asyncpg: the lines by COPY, and the sink's own statements around it."""

    def __init__(self, spec: SinkSpec) -> None:
        from segsrv.sinks.postgresql import sql  # noqa: PLC0415 - Where it is measured.
        from segsrv.sinks.postgresql.names import Name  # noqa: PLC0415

        self._url = spec.url
        self._sql = sql
        names = [Name.read(spec.options.table), Name.read(spec.options.positions_table)]
        self._insert = sql.insert(*names)
        self._begin = sql.begin(spec.config.send_timeout_s)
        self._connection: Any = None

    async def open(self) -> None:
        import asyncpg  # noqa: PLC0415 - Where it is measured.

        self._connection = await asyncpg.connect(self._url, statement_cache_size=0)

    def encode(self, given: Given) -> tuple[bytes, list[str]]:
        key_ids, formats, received_ms, types, _lengths, event_ids = zip(*given.facts, strict=True)
        columns = (event_ids, received_ms, types, formats, key_ids)
        return given.content, [orjson.dumps(column).decode() for column in columns] + [given.id]

    async def send(self, encoded: tuple[bytes, list[str]]) -> None:
        lines, (*columns, batch_id) = encoded
        connection = self._connection
        await connection.execute(self._begin)
        await connection.copy_to_table(
            self._sql.LINES,
            schema_name="pg_temp",
            columns=["line"],
            source=io.BytesIO(lines),
            format="csv",
            quote="\x01",
            delimiter="\x02",
            encoding="utf-8",
        )
        await connection.execute(self._insert, *columns, "bench", "bench", "", batch_id, "{}")
        await connection.execute("COMMIT")

    async def close(self) -> None:
        await self._connection.close()


DRIVERS: dict[str, type[Driver]] = {
    "file": FileDriver,
    "kafka-idempotent": KafkaDriver,
    "kafka-transactional": KafkaDriver,
    "clickhouse": ClickhouseDriver,
    "postgresql": PostgresqlDriver,
    "s3": S3Driver,
    "webhook": WebhookDriver,
}
