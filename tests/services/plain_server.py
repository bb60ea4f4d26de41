"""The other side of `plain_sink`: it keeps whole batches in a file and knows the last one's id.

    python plain_server.py PORT FILE

A batch is a line `ID EVENTS BYTES` and the bytes themselves, stored as they come and synced before
the answer, a line `ok` or `refused INDEX`. A batch that comes again at once is not stored again.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

REFUSED = b"refuse me"


class Store:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self._last_id = ""
        self._end = 0
        data = path.read_bytes()
        while (line_end := data.find(b"\n", self._end)) >= 0:
            batch_id, _events, size = data[self._end : line_end].split()
            if line_end + 1 + int(size) > len(data):
                break
            self._last_id = batch_id.decode()
            self._end = line_end + 1 + int(size)
        # A crash left the rest, which was never acknowledged.
        os.ftruncate(self._fd, self._end)

    def add(self, batch_id: str, head: bytes, body: bytes) -> str:
        if batch_id == self._last_id:
            return "ok"
        for index, line in enumerate(body.splitlines()):
            if REFUSED in line and _is_refused(json.loads(line)):
                return f"refused {index}"
        data, end = head + body, self._end
        try:
            while end < self._end + len(data):
                end += os.pwrite(self._fd, data[end - self._end :], end)
            os.fsync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            return f"error {error.strerror}"
        self._last_id, self._end = batch_id, end
        return "ok"


def _is_refused(event: dict) -> bool:
    return event.get("event") == REFUSED.decode()


async def serve(port: int, path: Path) -> None:
    store = Store(path)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readline():
                batch_id, _events, size = head.split()
                body = await reader.readexactly(int(size))
                writer.write(f"{store.add(batch_id.decode(), head, body)}\n".encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
