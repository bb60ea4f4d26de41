"""ClickHouse for tests: the current engine behind a shim, and Debian's old server."""

import json
import os
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from tests.services.base import BUILD, Service

SHIM = Path(__file__).with_name("chdb_shim.py")
PYTHON = BUILD / "chdb" / "bin" / "python"
INSTALL = "run tests/services/install.sh clickhouse"
QUERY_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 2.0

CONFIG = """<?xml version="1.0"?>
<yandex>
  <logger><level>warning</level><console>1</console></logger>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{port}</http_port>
  <tcp_port>{native_port}</tcp_port>
  <path>{data}/</path>
  <tmp_path>{data}/tmp/</tmp_path>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
</yandex>
"""
USER = """<{name}><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
  <profile>{profile}</profile><quota>default</quota></{name}>
"""
USERS = f"""<?xml version="1.0"?>
<yandex>
  <profiles><default></default><reader><readonly>1</readonly></reader></profiles>
  <quotas><default></default></quotas>
  <users>
  {USER.format(name="default", password="", profile="default")}
  {USER.format(name="writer", password="right", profile="default")}
  {USER.format(name="reader", password="right", profile="reader")}
  </users>
</yandex>
"""


class QueryError(Exception):
    """The server answered with an error."""


class _Clickhouse(Service):
    def is_ready(self) -> bool:
        return self.query("SELECT 1", timeout_s=READY_TIMEOUT_S) == "1\n"

    @property
    def url(self) -> str:
        return f"clickhouse://127.0.0.1:{self.port}/default"

    def query(self, statement: str, *, timeout_s: float = QUERY_TIMEOUT_S, **settings: str) -> str:
        """Return the answer to *statement* as text.

        Raises:
            QueryError: It is an error.

        """
        parameters = urllib.parse.urlencode({"wait_end_of_query": "1"} | settings)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/?{parameters}", data=statement.encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise QueryError(error.read().decode(errors="replace")) from error

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Return what *statement* selects."""
        answer = self.query(f"{statement} FORMAT JSONEachRow")
        return [json.loads(line) for line in answer.splitlines()]

    def count(self, table: str = "events") -> int:
        return int(self.query(f"SELECT count() FROM {table}"))

    def ids(self, table: str = "events") -> list[str]:
        return [row["event_id"] for row in self.rows(f"SELECT event_id FROM {table}")]


class Chdb(_Clickhouse):
    """The current engine; what it shares with a server, and what not, is in `chdb_shim.py`."""

    name = "chdb"

    @classmethod
    def installed(cls) -> str | None:
        return None if PYTHON.exists() else f"chDB is missing: {INSTALL}"

    def command(self) -> list[str]:
        return [str(PYTHON), str(SHIM), str(self.port), str(self.data_dir)]


class OldClickhouse(_Clickhouse):
    """Debian's server, 18.16: it speaks HTTP, and knows neither tokens nor functions for JSON."""

    name = "clickhouse"
    port_offsets: ClassVar[tuple[int, ...]] = (1,)
    # It waits for connections that are idle before it ends.
    stop_signal = signal.SIGKILL

    @classmethod
    def installed(cls) -> str | None:
        return None if _program() else f"clickhouse-server is missing: {INSTALL}"

    def prepare(self) -> None:
        config = CONFIG.format(port=self.port, native_port=self.port + 1, data=self.data_dir)
        (self.folder / "config.xml").write_text(config)
        (self.folder / "users.xml").write_text(USERS)

    def command(self) -> list[str]:
        return [_program(), f"--config-file={self.folder / 'config.xml'}"]


def _program() -> str:
    """Return the server's path, which may be in a folder for administrators; empty if missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which("clickhouse-server", path=path) or ""
