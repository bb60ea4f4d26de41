"""PostgreSQL from Debian as a child of the tests, run by its own user where the tests are root's.

Roles: `admin` (superuser) and `plain` get in without a password, `guarded` with PASSWORD only, and
`encrypted` over TLS only.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.services.base import Service

PASSWORD = "correct horse"
USER = "postgres"
SCRIPT = "tests/services/install.sh postgresql"
ACCESS = """\
hostssl all encrypted 127.0.0.1/32 trust
host all guarded 127.0.0.1/32 scram-sha-256
host all admin,plain 127.0.0.1/32 trust
local all all trust
"""
SETTINGS = """\
listen_addresses = '127.0.0.1'
max_connections = 20
shared_buffers = 16MB
min_wal_size = 2MB
max_wal_size = 16MB
"""


class PostgresqlService(Service):
    name = "postgresql"
    # Others wait for clients to go.
    stop_signal = signal.SIGINT

    @classmethod
    def installed(cls):
        missing = None if _program("postgres") else f"PostgreSQL is missing: run {SCRIPT}"
        return missing or (None if shutil.which("openssl") else f"openssl is missing: run {SCRIPT}")

    @property
    def cluster(self) -> Path:
        """The server's own folder; a small disk has files of others beside it."""
        return self.data_dir / "cluster"

    @property
    def sockets(self) -> Path:
        """Where the Unix socket is; a path of more than a hundred characters would be too long."""
        return Path(f"/tmp/segsrv-postgresql-{self.port}")

    @property
    def certificate(self) -> Path:
        """Signed by itself, for `localhost`."""
        return self.folder / "server.crt"

    def prepare(self):
        self.sockets.mkdir(exist_ok=True)
        self._own(self.sockets)
        if (self.cluster / "PG_VERSION").exists():
            # A crash leaves it, and in a container its process id may belong to another by now.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
            return
        self.cluster.mkdir()
        self._own(self.cluster)
        init = ("--no-sync", "-A", "trust", "-U", "admin", "-E", "UTF8", "--locale=C.UTF-8")
        # With the default of 16 MB a small disk would hold no more than the log.
        self._run(_program("initdb"), "-D", str(self.cluster), "--wal-segsize=1", *init)
        (self.cluster / "pg_hba.conf").write_text(ACCESS)
        with (self.cluster / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS)
        self._make_certificate()

    def command(self):
        sockets = f"unix_socket_directories={self.sockets}"
        tls = ("-c", "ssl=on", "-c", f"ssl_cert_file={self.cluster}/server.crt")
        tls += ("-c", f"ssl_key_file={self.cluster}/server.key")
        base = [_program("postgres"), "-D", str(self.cluster), "-p", str(self.port)]
        return as_user(*base, "-c", sockets, *tls)

    def is_ready(self):
        status = subprocess.run(
            [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        )
        return status.returncode == 0

    def start(self):
        is_new = not (self.cluster / "PG_VERSION").exists()
        super().start()
        if is_new:
            self.sql("CREATE ROLE plain LOGIN; CREATE ROLE encrypted LOGIN")
            self.sql(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
            self.make_database("events")

    def kill(self):
        super().kill()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def make_database(self, name: str) -> None:
        """Make a database that belongs to `plain`."""
        self.sql(f"CREATE DATABASE {name} OWNER plain")

    def url_of(self, user: str = "plain", *, database: str = "events", port: int = 0) -> str:
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, statement: str, *, user: str = "admin", database: str = "postgres") -> str:
        """Return what psql prints, rows as lines and columns separated by |."""
        command = [_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        ended = subprocess.run(
            [*command, self.url_of(user, database=database), "-f", "-"],
            input=statement,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr)
        return ended.stdout.rstrip("\n")

    def _make_certificate(self) -> None:
        key = self.cluster / "server.key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        key.chmod(0o600)
        shutil.copy(self.certificate, self.cluster)
        for path in (key, self.cluster / "server.crt"):
            self._own(path)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, USER, USER)

    def _run(self, *command: str) -> None:
        ended = subprocess.run(
            as_user(*command), cwd="/", capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr or ended.stdout)


def as_user(*command: str) -> list[str]:
    """Return *command* for the server's user: it refuses to be root's.

    It may enter folders of root's alone, as those of tests are.
    """
    if os.geteuid() != 0:
        return list(command)
    enter = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *enter, *command]


def _program(name: str) -> str:
    """Return the path of the newest release's program; empty if there is none."""
    found = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return str(max(found, key=lambda path: int(path.parts[-3]), default=""))
