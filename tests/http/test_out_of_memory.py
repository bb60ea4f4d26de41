"""A server whose memory is limited from outside: what there is none for is to be sent again."""

import contextlib
import http.client
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import REPOSITORY
from tests.site import FLAT, KEY, basic, new_id

MIB = 1 << 20
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@contextlib.contextmanager
def limited(pid, more_bytes):
    """Let the process have *more_bytes* of address space than it has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, UNLIMITED)


def batch(padding) -> tuple[list[str], bytes]:
    ids = [new_id() for _number in range(1_000)]
    events = [
        {
            "type": "track",
            "event": "Bought",
            "messageId": event_id,
            "properties": {"numbers": [{"a": 1, "b": 2}] * 20, "pad": "x" * padding},
        }
        for event_id in ids
    ]
    return ids, json.dumps({"batch": events}).encode()


@pytest.mark.parametrize("padding", [0, 3_000], ids=["values", "texts"])
def test_a_valid_batch_is_never_called_broken(new_site, padding):
    """With too little memory a batch is 503 and nothing of it stored, else 200 and all of it."""
    site = new_site()
    pid = site.process.pid
    acknowledged, answers = set(), []
    headers = {"Authorization": basic(KEY)}
    connection = http.client.HTTPConnection(*site.address, timeout=30)
    with contextlib.closing(connection):
        for more_bytes in range(12 * MIB, 200 * MIB, 12 * MIB):
            ids, body = batch(padding)
            with limited(pid, more_bytes):
                connection.request("POST", site.prefix + FLAT, body=body, headers=headers)
                answer = connection.getresponse()
                text = answer.read()
            answers.append(answer.status)
            if answer.status == 200:
                acknowledged.update(ids)
            else:
                assert (answer.status, json.loads(text)["code"]) == (503, "overloaded"), text
                assert int(answer.headers["Retry-After"]) > 0
    assert {200, 503} == set(answers), answers

    last = new_id()
    assert site.post({"type": "track", "messageId": last}).status == 200
    site.stored(last)
    assert len(site.process.events()) == len(acknowledged) + 1
    site.stored(*acknowledged)


def test_a_lack_of_memory_is_no_fault_of_the_json():
    """The parser's own word for it is a decoding error, which would be answered with 400."""
    program = """
import resource
from segsrv.events import payload
body = b'{"batch":[' + b'{"a":{"b":"c"},"d":1},' * 100_000 + b"{}]}"
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (8 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    payload.parse(body, batch_events_max=200_000, batch_shared_bytes_max=1)
except MemoryError:
    print("no memory")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "no memory\n", ended.stderr
