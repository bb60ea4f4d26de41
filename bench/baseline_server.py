"""The baseline: aiohttp on uvloop with a handler that reads the body and answers, nothing else.

A figure of the real server is worth something only beside what the same stack does, on the same
machine and in the same minute, without any of the work.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop
from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")


async def serve(host: str, port: int, paths: list[str]) -> None:
    app = web.Application(client_max_size=4 << 20)
    for path in paths:
        app.router.add_post(path, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    bound_host, bound_port = runner.addresses[0][:2]
    print(f"listening on http://{bound_host}:{bound_port}", flush=True)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0 picks a free one")
    parser.add_argument(
        "--path", action="append", help="path that is answered, repeatable (/api/v1/segment)"
    )
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port, options.path or ["/api/v1/segment"]))


if __name__ == "__main__":
    main()
