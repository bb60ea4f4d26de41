"""ClickHouse's current engine behind an HTTP interface that answers as the server's does.

    python chdb_shim.py PORT DATA_DIR

No current ClickHouse server can be installed from where the tests get their programs, but its
engine can, as the library chDB. What counts here is the engine's: tokens, blocks, types, errors
and their codes. Of the server it imitates what a client sees of HTTP: statements in `query` or the
body, settings as parameters, users, compressed bodies, the header with the error's code, and that
two statements with one id don't run at once. Statements run one after the other.

User `writer` with the password `right` may do everything, as `default` without one may; `reader`
with `right` may only read, and `lax` has a profile that drops what it can't read and stores rows
one by one.
"""

import gzip
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from backports import zstd
from chdb import session

PASSWORDS = {"default": "", "writer": "right", "reader": "right", "lax": "right"}
PROFILES = {
    "lax": {
        "input_format_allow_errors_num": "9",
        "input_format_json_read_objects_as_strings": "0",
        "max_insert_block_size": "1",
        "min_insert_block_size_rows": "1",
        "min_insert_block_size_bytes": "1",
    }
}
STATUS = {60: 404, 81: 404, 16: 400, 115: 404, 497: 403, 516: 403}
NOT_SETTINGS = {"query", "database", "user", "password", "query_id", "wait_end_of_query"}
CODE = re.compile(r"Code: (\d+)")

engine = session.Session(sys.argv[2])
engine_lock = threading.Lock()
running: set[str] = set()
running_lock = threading.Lock()


class Refused(Exception):
    """Answered as an exception of ClickHouse is."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {text}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The answer is two writes; the second must not wait for the first one's confirmation.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            # As the server, which reads exactly so many bytes or fails.
            self.close_connection = True
            return
        try:
            content, status, code = self._answer(body), 200, 0
        except Exception as error:  # noqa: BLE001 - The library raises nothing more exact.
            text = str(error)
            found = CODE.search(text)
            code = int(found[1]) if found else 1002
            content, status = text.encode() + b"\n", STATUS.get(code, 500)
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - The name is the library's.

    def _answer(self, body: bytes) -> bytes:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        user = self.headers.get("X-ClickHouse-User", "default")
        if PASSWORDS.get(user) != self.headers.get("X-ClickHouse-Key", ""):
            raise Refused(516, f"{user}: Authentication failed: password is incorrect")
        match self.headers.get("Content-Encoding"):
            case "zstd":
                body = zstd.decompress(body)
            case "gzip":
                body = gzip.decompress(body)
        statement = "\n".join(filter(None, [parameters.get("query", ""), body.decode()]))
        settings = {k: v for k, v in parameters.items() if k not in NOT_SETTINGS}
        for name, value in PROFILES.get(user, {}).items():
            settings.setdefault(name, value)
        if user == "reader" and not statement.startswith(("SELECT ", "DESCRIBE ")):
            raise Refused(497, f"{user}: Not enough privileges. To execute this query, it is ...")
        query_id = parameters.get("query_id", "")
        with running_lock:
            if query_id and query_id in running:
                raise Refused(216, f"Query with id = {query_id} is already running.")
            running.add(query_id)
        try:
            with engine_lock:
                return run(statement, settings)
        finally:
            with running_lock:
                running.discard(query_id)


def run(statement: str, settings: dict[str, str]) -> bytes:
    """Run *statement*, for which *settings* hold and for no other."""
    taken = []
    try:
        for name, value in settings.items():
            engine.query(f"SET {name} = '{value}'")
            taken.append(name)
        return engine.query(statement, "TabSeparated").bytes() or b""
    finally:
        for name in taken:
            engine.query(f"SET {name} = DEFAULT")


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()
