"""What a request holds on to while it waits for the disk."""

import asyncio
import gc
import weakref

from segsrv import Settings, create_app
from segsrv.events.payload import Payload
from segsrv.http import ingest
from segsrv.journal.group_commit import GroupCommit
from tests.waiting import until


class Watched(Payload):
    """A payload that can be watched: the plain one takes no weak references."""


async def test_what_was_parsed_is_gone_before_the_commit_ends(
    aiohttp_client, tmp_path, monkeypatch
):
    """A slow disk keeps the lines of waiting requests in memory, not the trees they came from."""
    parsing, payloads, commits = ingest.parsing, [], []

    def watched(body, **limits):
        plain = yield from parsing(body, **limits)
        payload = Watched(items=plain.items, is_batch=plain.is_batch, write_key=plain.write_key)
        payloads.append(weakref.ref(payload))
        return payload

    def held(_commit, _lines, _dead_letters, _run):
        commits.append(asyncio.get_running_loop().create_future())
        return commits[-1]

    monkeypatch.setattr(ingest, "parsing", watched)
    monkeypatch.setattr(GroupCommit, "store", held)
    client = await aiohttp_client(create_app(Settings(data_dir=tmp_path, write_key=("key",))))
    body = b'{"writeKey":"key","batch":[{"event":"a"}]}'
    sending = asyncio.create_task(client.post("/v1/batch", data=body))
    await until(lambda: commits)

    gc.collect()
    assert [payload() for payload in payloads] == [None]
    commits[0].set_result(None)
    assert (await sending).status == 200
