"""A site of its own origin, whose pages load the browser SDKs."""

import http.server
import threading
from pathlib import Path
from typing import Self

JOIN_TIMEOUT_S = 10.0


class Pages:
    """Serve pages on a free loopback port for the length of a `with` block."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, bytes]] = {}
        files = self._files

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                content_type, body = files.get(path, ("text/plain", b""))
                self.send_response(200 if path in files else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Say nothing: what the browser asked for is in its own events."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join(JOIN_TIMEOUT_S)
        self._server.server_close()

    def origin(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self._server.server_address[1]}"

    def add_script(self, path: str, script: Path) -> None:
        self._files[path] = ("text/javascript; charset=utf-8", script.read_bytes())

    def add(self, path: str, head: str) -> None:
        # Without an icon of its own, a page is asked for one and complains that there is none.
        html = f'<!doctype html><title>A page</title><link rel="icon" href="data:,">{head}'
        self._files[path] = ("text/html; charset=utf-8", html.encode())
