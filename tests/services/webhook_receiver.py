"""A receiver of webhooks: it keeps each batch on its disk before it answers 200.

    python webhook_receiver.py PORT FILE

A line of FILE is one request that was taken: its headers and, as text, its body. Tests tell it
otherwise by the bodies of `PUT /control`, JSON lists of answers for the next requests.
"""

import asyncio
import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import web

BODY_BYTES_MAX = 64 << 20
REFUSED = b"refused-by-the-receiver"
"""A batch with this anywhere in it is refused for good."""


class Receiver:
    """Takes batches at any path; `requests` are those that came, taken or not.

    `answers` are for the next requests: a status with headers and a body, `is_early` before their
    body was read, and with `is_stored` after it was kept all the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: deque[dict[str, Any]] = deque()
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_put("/control", self._control)
        app.router.add_route("*", "/{path:.*}", self._take)
        return app

    async def _control(self, request: web.Request) -> web.Response:
        self.answers.extend(await request.json())
        return web.Response()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers.popleft() if self.answers else {}
        body = b"" if answer.get("is_early") else await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.path_qs, headers, body))
        if not answer and REFUSED in body:
            return web.Response(status=422, text="not such events")
        if not answer or answer.get("is_stored"):
            try:
                self._keep(headers, body)
            except OSError as error:
                return web.Response(status=507, text=os.strerror(error.errno or 0))
        response = web.Response(
            status=answer.get("status", 200),
            headers=answer.get("headers"),
            body=answer.get("body", "").encode(),
        )
        if answer.get("is_early") and request.transport is not None:
            response.force_close()
        return response

    def _keep(self, headers: dict[str, str], body: bytes) -> None:
        kept = {"headers": headers, "body": body.decode("utf-8", "replace")}
        with self.path.open("ab") as file:
            size = file.tell()
            try:
                file.write(json.dumps(kept).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise


async def main(port: int, path: Path) -> None:
    # A body is kept as it travelled.
    runner = web.AppRunner(Receiver(path).application(), auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
