"""Several segsrv applications in one process, under an application of somebody else's."""

import base64

import pytest
from aiohttp import web

from segsrv import Settings, create_app
from segsrv.errors import DataDirInUse
from tests.waiting import until


def basic(key):
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def stored(folder):
    return b"".join(path.read_bytes() for path in folder.glob("events/**/*.ndjson"))


def mounted(tmp_path, *names):
    outer = web.Application()
    for name in names:
        settings = Settings(data_dir=tmp_path / name, write_key=(f"key-{name}",))
        outer.add_subapp(f"/{name}", create_app(settings))
    return outer


async def test_each_has_its_own_keys_and_data(aiohttp_client, tmp_path):
    """Two mounted applications share nothing: each takes its key and stores in its place."""
    client = await aiohttp_client(mounted(tmp_path, "a", "b"))
    for name, other in (("a", "b"), ("b", "a")):
        path = f"/{name}/api/v1/segment"
        event = f'{{"event":"of {name}"}}'
        taken = await client.post(path, data=event, headers=basic(f"key-{name}"))
        refused = await client.post(path, data="{}", headers=basic(f"key-{other}"))
        assert (taken.status, refused.status) == (200, 401)
        await until(lambda name=name: f"of {name}".encode() in stored(tmp_path / name))

    assert b"of b" not in stored(tmp_path / "a")
    assert b"of a" not in stored(tmp_path / "b")


async def test_two_on_one_data_directory_do_not_start(tmp_path):
    """The second application on a data directory fails at start, and says whose it is."""
    first = web.AppRunner(mounted(tmp_path, "a"))
    await first.setup()
    settings = Settings(data_dir=tmp_path / "a", write_key=("other",))
    second = web.AppRunner(create_app(settings))
    with pytest.raises(DataDirInUse, match="in use"):
        await second.setup()
    await first.cleanup()


async def test_a_cleaned_up_application_leaves_the_directory_free(aiohttp_client, tmp_path):
    """After its cleanup a data directory can be opened again, and nothing in it is lost."""
    for number in range(2):
        client = await aiohttp_client(mounted(tmp_path, "a"))
        answer = await client.post(
            "/a/api/v1/segment", data=f'{{"event":"run {number}"}}', headers=basic("key-a")
        )
        assert answer.status == 200
        await client.close()

    lines = stored(tmp_path / "a").splitlines()
    assert len(lines) == 2
