"""When the journal has no room, a request is refused before any work is done for it."""

import pytest

from segsrv import Settings, create_app
from segsrv.errors import JournalFull
from segsrv.journal.group_commit import GroupCommit


@pytest.mark.parametrize("padding", [0, 100_000], ids=["small", "large"])
async def test_a_full_journal_is_asked_before_the_body_is_parsed(
    aiohttp_client, tmp_path, monkeypatch, padding
):
    """The answer is 503 and not 400 for a body with a flaw, as nobody has looked into it."""
    client = await aiohttp_client(create_app(Settings(data_dir=tmp_path, write_key=("key",))))
    body = b'{"writeKey":"key","pad":"%s","batch":oops}' % (b"x" * padding)
    assert (await client.post("/v1/batch", data=body)).status == 400

    def has_no_room(_commit, size):
        raise JournalFull(f"no room for {size} bytes")

    monkeypatch.setattr(GroupCommit, "check_room", has_no_room)
    answer = await client.post("/v1/batch", data=body)
    assert (answer.status, (await answer.json())["code"]) == (503, "journal_full")
