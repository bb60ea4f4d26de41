"""S3 sinks made from settings, and batches for them."""

from segsrv.journal.facts import Facts
from segsrv.settings import Secret, Settings, SinkTable
from segsrv.sinks import Batch, Sink, registry
from tests.services.s3_service import BUCKET, secret_of

HOUR_MS = 3_600_000
NINE = 1_795_597_200_000
"""2026-11-25, 09:00:00 UTC."""


def s3_sink(
    endpoint: str, prefix: str, *, key="segsrv", secret=None, bucket=BUCKET, table=None, **options
) -> Sink:
    """Return a sink that was not opened; without *key* it has no secrets."""
    given = {"access_key_id": Secret(env="KEY"), "secret_access_key": Secret(env="SECRET")}
    sink = SinkTable(
        name="s3",
        url=f"s3://{bucket}/{prefix}",
        options={"endpoint": endpoint, **options},
        secrets=given if key else {},
        **(table or {}),
    )
    environ = {"KEY": key or "", "SECRET": secret_of(key) if secret is None else secret}
    return registry.build(Settings(sinks=(sink,)), environ)[0].sink


def batch_of(times, *, batch_id="0123456789abcdef01234567", pad=0) -> Batch:
    """Return a batch of one event for each time of receipt, in ms since 1970."""
    lines = [b'{"n":%d,"pad":"%s"}\n' % (n, b"x" * pad) for n in range(len(times))]
    facts = [
        Facts("web", "flat", received_ms, "track", len(line), f"id-{n}")
        for n, (received_ms, line) in enumerate(zip(times, lines, strict=True))
    ]
    middle = len(lines) // 2
    parts = [b"".join(part) for part in (lines[:middle], lines[middle:]) if part]
    return Batch(batch_id, parts, len(lines), lambda: facts)
