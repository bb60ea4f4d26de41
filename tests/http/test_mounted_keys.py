"""Keys change in an application that mounts segsrv, too."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from segsrv import Settings, create_app
from segsrv.app import INGEST, reload_keys
from tests.waiting import until


async def test_keys_are_read_again_without_a_signal(tmp_path):
    """Asked for by a method; a key that was added opens soon after."""
    app = create_app(Settings(data_dir=tmp_path, write_key=("one",)))
    outer = web.Application()
    outer.add_subapp("/in", app)
    async with TestClient(TestServer(outer)) as client:

        async def status() -> int:
            login = {"X-Write-Key": "two"}
            async with client.post("/in/v1/track", json={"event": "e"}, headers=login) as response:
                return response.status

        assert await status() == 401
        text = '[[keys]]\nid = "app"\nsecret = "two"\n'
        (tmp_path / "state" / "keys.toml").write_text(text)
        reload_keys(app)
        keyring = app[INGEST]._keyring
        await until(lambda: keyring.find("two") is not None)
        assert await status() == 200


def test_another_application_has_no_keys():
    """That is said, and not passed over."""
    with pytest.raises(ValueError, match="create_app"):
        reload_keys(web.Application())
