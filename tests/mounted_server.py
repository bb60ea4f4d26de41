"""Runs segsrv mounted in another application, with the command line and banner of `segsrv serve`.

The outer application has a small `client_max_size` and a middleware, as an embedder's may.
"""

import argparse
import asyncio
import os
import signal

from aiohttp import web

from segsrv import create_app, create_ops_app
from segsrv.addresses import Address
from segsrv.settings import sources

PREFIX = "/outer/ingest"


@web.middleware
async def stamp(request, handler):
    response = await handler(request)
    response.headers["X-Outer"] = "yes"
    return response


def ops_listener(ingest, address):
    async def context(_outer):
        runner = web.AppRunner(create_ops_app(ingest), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address.host, address.port).start()
        print(f"ops http://{address.host}:{runner.addresses[0][1]}", flush=True)  # noqa: T201
        yield
        await runner.cleanup()

    return context


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    sources.add_flags(parser)
    settings = sources.load(vars(parser.parse_args()), os.environ)

    outer = web.Application(client_max_size=1_024, middlewares=[stamp])
    ingest = create_app(settings)
    outer.add_subapp(PREFIX, ingest)
    if settings.ops_listen:
        outer.cleanup_ctx.append(ops_listener(ingest, Address.parse(settings.ops_listen)))
    # A second one in the same process, with a data directory of its own.
    other = sources.load({"data_dir": f"{settings.data_dir}-other"}, {})
    outer.add_subapp("/other", create_app(other))

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(outer, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    port = runner.addresses[0][1]
    print(f"mounted segsrv listening on http://{settings.host}:{port}{PREFIX}", flush=True)  # noqa: T201
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
