"""A tiny server for the tests of services: it keeps lines and answers each with its length.

    python line_server.py PORT FILE

A child of it, in a session of its own, keeps its id in FILE.child, as servers with helpers do.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path


async def main(port: int, path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if not line.endswith(b"\n"):
                    return
                with path.open("ab") as file:
                    file.write(line)
                    os.fsync(file.fileno())
                writer.write(b"%d\n" % len(line))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=1 << 20)
    print("listening", flush=True)  # noqa: T201 - goes to the service's log.
    await server.serve_forever()


if __name__ == "__main__":
    # In a script's background it is ignored unless somebody asks for it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lines = Path(sys.argv[2])
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(f"{lines}.child").write_text(str(child.pid))
    try:
        asyncio.run(main(int(sys.argv[1]), lines))
    finally:
        child.kill()
        child.wait()
