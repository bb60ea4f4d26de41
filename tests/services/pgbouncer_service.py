"""PgBouncer before a PostgreSQL of the tests, handing out sessions for one transaction each."""

import shutil
from pathlib import Path

from tests.services.base import Service
from tests.services.postgresql_service import SCRIPT, as_user

SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 2
"""


class PgBouncerService(Service):
    name = "pgbouncer"

    def __init__(self, folder: Path, server_port: int) -> None:
        super().__init__(folder)
        self.server_port = server_port

    @classmethod
    def installed(cls):
        return None if _program() else f"PgBouncer is missing: run {SCRIPT}"

    def prepare(self):
        users = self.folder / "users"
        users.write_text('"plain" ""\n')
        settings = SETTINGS.format(server_port=self.server_port, port=self.port, users=users)
        (self.folder / "pgbouncer.ini").write_text(settings)

    def command(self):
        return as_user(str(_program()), str(self.folder / "pgbouncer.ini"))


def _program() -> str | None:
    # Debian's folder for it is not in everybody's path.
    return shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
