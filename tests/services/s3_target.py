"""The S3 sink as a target of the fault tests, on SeaweedFS."""

from pathlib import Path

import orjson

from segsrv.sinks.file.compression import zstd
from tests.services.s3_service import BUCKET, SeaweedFs, secret_of
from tests.services.target import Target
from tests.site import id_of

PREFIX = "faults"
ENVIRON = {"S3_TEST_KEY": "segsrv", "S3_TEST_SECRET": secret_of("segsrv")}


class S3Target(Target):
    kind = "s3"
    is_exactly_once = True
    disk_bytes = 24 << 20
    why_none_refused = "A bucket takes every object, and does not look into it."
    service: SeaweedFs

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        self.service = SeaweedFs(folder, data_dir=data_dir)

    @classmethod
    def installed(cls) -> str | None:
        return SeaweedFs.installed()

    def table(self, port: int) -> str:
        return table_of(f"http://127.0.0.1:{port}", PREFIX)

    def environ(self) -> dict[str, str]:
        return ENVIRON

    def ids(self) -> list[str]:
        return [id_of(event) for event in events_of(self.service.objects(f"{PREFIX}/dt="))]

    def refused_event(self, _event_id: str) -> None:
        return None


def table_of(endpoint: str, prefix: str) -> str:
    """Return the table of a sink whose faults are soon over; it needs ENVIRON."""
    return f"""
[[sinks]]
name = "s3"
url = "s3://{BUCKET}/{prefix}"
send_timeout_s = 2.0
retry_s_max = 0.5
batch_interval_s = 0.2
batch_events_max = 2000
options.endpoint = "{endpoint}"
options.connect_timeout_s = 1.0
secrets.access_key_id = {{ env = "S3_TEST_KEY" }}
secrets.secret_access_key = {{ env = "S3_TEST_SECRET" }}
"""


def events_of(objects: dict[str, bytes]) -> list[dict]:
    """Return the events in compressed NDJSON objects, in the order of their keys."""
    return [
        orjson.loads(line)
        for _key, content in sorted(objects.items())
        for line in zstd.decompress(content).splitlines()
    ]
