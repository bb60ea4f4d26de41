"""A server that answers every S3 request as it is told, for what SeaweedFS never answers."""

import http.server
import ssl
import threading
import urllib.parse
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

Answer = tuple[int, str]
"""A status, and the code of S3's that the body has; an empty code means no body."""

EMPTY_LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


class S3Answers:
    """Listens on a port of its own for the length of a `with` block.

    `answer` is called with the method, path and headers of each request, of which `requests` keeps
    the first two; `bodies` are those that came, by path. It speaks TLS if it gets a *context*.
    """

    def __init__(
        self,
        answer: Callable[[str, str, dict[str, str]], Answer],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        self.bodies: dict[str, bytes] = {}
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version: ClassVar[str] = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urllib.parse.unquote(self.path.partition("?")[0])
                owner.requests.append((self.command, path))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, code = answer(self.command, path, headers)
                if status < 300:
                    owner.bodies[path] = body
                content = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
                if status == 200 and self.command == "GET":
                    content = EMPTY_LIST
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"1"')
                self.end_headers()
                self.wfile.write(content)

            do_PUT = do_GET = do_HEAD = _answer  # noqa: N815

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self.endpoint = f"http{'s' if context else ''}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
