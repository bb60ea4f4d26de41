"""What the end-to-end tests do with a running server: send, and find what was stored."""

import base64
import contextlib
import http.client
import json
import time
import urllib.parse
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mmdb import write_mmdb
from tests.server_process import MOUNTED, ServerProcess

KEY = "test-key"
FLAT, COMPAT = "/api/v1/segment", "/api/v1/segment/compat"
RAW = "/api/v1/segment/raw"
FRONTS = ("raw", "aiohttp")
WAYS = (*FRONTS, "mounted")
"""In which a server can run: `segsrv serve` with each front, and in another application."""
BOTH_FRONTS = pytest.mark.parametrize("start_server", FRONTS, indirect=True)
LONDON = "81.2.69.142"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)


class Site:
    """A running server; paths are relative to where it is mounted."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        split = urllib.parse.urlsplit(process.url)
        self.prefix = split.path
        self.address = (split.hostname, split.port)

    def request(self, method, path, *, body=None, headers=None) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, self.prefix + path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path, **headers) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, body, *, path=FLAT, headers=None, key=KEY) -> Answer:
        """Send *body* (bytes, or what JSON makes of it) with Basic auth unless *key* is None."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = basic(key)
        return self.request("POST", path, body=data, headers=sent)

    def stored(self, *event_ids, timeout_s=10.0) -> list[dict]:
        """Wait until events of these ids are stored, and return each once, in their order.

        Fails if one is stored twice.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = [event for event in self.process.events() if id_of(event) in event_ids]
            if len({id_of(event) for event in found}) == len(set(event_ids)):
                assert len(found) == len(set(event_ids)), "an event is stored twice"
                by_id = {id_of(event): event for event in found}
                return [by_id[event_id] for event_id in event_ids]
            assert time.monotonic() < deadline, f"{len(found)} of {len(event_ids)} events stored"
            time.sleep(0.02)

    def dead_letters(self) -> list[dict]:
        files = sorted((self.process.data_dir / "dead-letter").glob("*.ndjson"))
        return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]

    def metric(self, name, **labels) -> float:
        """Return the sum of a metric's samples that carry *labels*."""
        total = 0.0
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        for line in self.get("/metrics").body.decode().splitlines():
            sample, _space, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(part in sample for part in wanted):
                total += float(value)
        return total


def id_of(event) -> str:
    tracker = event.get("eventn_ctx")
    if isinstance(tracker, dict):
        return tracker["event_id"]
    return event.get("eventn_ctx_event_id") or event["messageId"]


def basic(user, password="") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def new_id() -> str:
    return str(uuid.uuid4())


@contextlib.contextmanager
def started_site(data_dir: Path, *flags, way="raw", **options):
    """Run a server with a small GeoIP database of its own, in one of the `WAYS`."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    database = data_dir.parent / "city.mmdb"
    write_mmdb(
        database,
        {
            f"{LONDON}/32": {"country": {"iso_code": "GB", "names": {"en": "United Kingdom"}}},
            "8.8.8.0/24": {"country": {"iso_code": "US", "names": {"en": "United States"}}},
        },
    )
    if way == "mounted":
        options["program"] = MOUNTED
    else:
        flags = ("--front", way, *flags)
    process = ServerProcess(data_dir, "--geoip-db", str(database), *flags, **options)
    with process:
        yield Site(process)
