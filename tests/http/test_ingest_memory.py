"""What a request holds on to while it waits for the disk."""

import asyncio
import gc
import weakref

import pytest

from segsrv import Settings, create_app
from segsrv.events.payload import Payload
from segsrv.http import ingest
from segsrv.journal.group_commit import GroupCommit
from tests.waiting import until


class Watched(Payload):
    """A payload that can be watched: the plain one takes no weak references."""


@pytest.mark.parametrize("events", [1, ingest.SMALL_OBJECTS_MAX])
async def test_what_was_parsed_is_gone_before_the_commit_ends(
    aiohttp_client, tmp_path, monkeypatch, events
):
    """A slow disk keeps the lines of waiting requests in memory, not the trees they came from."""
    parse, parsing, payloads, commits = ingest.parse, ingest.parsing, [], []

    def watched(plain):
        payload = Watched(items=plain.items, is_batch=plain.is_batch, own_key=plain.own_key)
        payloads.append(weakref.ref(payload))
        return payload

    def parsing_watched(body, **limits):
        return watched((yield from parsing(body, **limits)))

    monkeypatch.setattr(ingest, "parse", lambda body, **limits: watched(parse(body, **limits)))
    monkeypatch.setattr(ingest, "parsing", parsing_watched)
    monkeypatch.setattr(
        GroupCommit, "submit", lambda _commit, _lines, _letters, _run, done: commits.append(done)
    )
    client = await aiohttp_client(create_app(Settings(data_dir=tmp_path, write_key=("key",))))
    body = b'{"writeKey":"key","batch":[%b]}' % b",".join([b'{"event":"a"}'] * events)
    sending = asyncio.create_task(client.post("/v1/batch", data=body))
    await until(lambda: commits)

    gc.collect()
    assert [payload() for payload in payloads] == [None]
    commits[0](None)
    assert (await sending).status == 200
