"""SeaweedFS as a server of S3, with keys of different rights, and what tests ask of it."""

import json
import signal
import urllib.request
from pathlib import Path
from typing import ClassVar

import obstore
from obstore.store import S3Store

from tests.services.base import BUILD, Service
from tests.services.free_ports import release_port, take_port

WEED = BUILD / "seaweedfs" / "bin" / "weed"
GRPC_OFFSET = 10_000
SOCKETS = Path("/tmp")
"""Where the server puts its sockets, whatever TMPDIR says."""
VOLUME_MB = 64
REQUEST_TIMEOUT_S = 5.0
BUCKET = "events"
READY = "ready"
KEYS = {
    "admin": ["Admin", "Read", "List", "Write"],
    "segsrv": [f"Read:{BUCKET}", f"List:{BUCKET}", f"Write:{BUCKET}"],
    "putter": [f"Write:{BUCKET}"],
    "reader": [f"Read:{BUCKET}", f"List:{BUCKET}"],
}
"""By access key id, what each may do; see `secret_of`."""


def secret_of(access_key_id: str) -> str:
    # With characters that have a meaning in a URL, as those of AWS.
    return f"{access_key_id}/Secret+1"


class SeaweedFs(Service):
    """One process with master, volume server, filer and S3; a bucket is made after the start."""

    name: ClassVar[str] = "s3"
    # It needs 25 s to end by itself.
    stop_signal: ClassVar[signal.Signals] = signal.SIGKILL
    port_offsets: ClassVar[tuple[int, ...]] = (GRPC_OFFSET,)

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        super().__init__(folder, data_dir=data_dir)
        self._ports = [take_port(GRPC_OFFSET) for _part in range(3)]

    @classmethod
    def installed(cls) -> str | None:
        if WEED.exists():
            return None
        return "SeaweedFS is not installed; tests/services/install_s3.sh does it"

    def prepare(self) -> None:
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": name, "secretKey": secret_of(name)}],
                "actions": actions,
            }
            for name, actions in KEYS.items()
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": identities}))

    def command(self) -> list[str]:
        master, volume, filer = self._ports
        options = {
            "dir": self.data_dir,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            # With its 10 s, a restart took 17 s instead of 3.
            "master.electionTimeout": "1s",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": VOLUME_MB,
            "volume.port": volume,
            "volume.max": 100,
            "filer": "true",
            "filer.port": filer,
            "filer.localSocket": self.folder / "filer.sock",
            "s3": "true",
            "s3.port": self.port,
            "s3.config": self.folder / "s3.json",
            "s3.localSocket": self.folder / "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            # A bucket that is missing stays so.
            "s3.autoCreateBucket": "false",
        }
        return [str(WEED), "server", *(f"-{name}={value}" for name, value in options.items())]

    def environ(self) -> dict[str, str]:
        # Its logs go there.
        return {"TMPDIR": str(self.folder)}

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=REQUEST_TIMEOUT_S):
            pass
        return self._takes_objects()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        key = f"segsrv:{secret_of('segsrv')}".replace("/", "%2F").replace("+", "%2B")
        return f"s3://{key}@{BUCKET}/prefix?endpoint={self.endpoint}"

    def close(self) -> None:
        super().close()
        for port in (self.port, *self._ports):
            # It leaves them behind when it is killed.
            for socket in SOCKETS.glob(f"seaweedfs-*-grpc-{port + GRPC_OFFSET}.sock"):
                socket.unlink(missing_ok=True)
        for port in self._ports:
            release_port(port)

    def store(self, bucket: str = BUCKET, access_key_id: str = "admin") -> S3Store:
        """Return a client that gives up at once."""
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=access_key_id,
            secret_access_key=secret_of(access_key_id),
            client_options={"allow_http": True, "timeout": f"{REQUEST_TIMEOUT_S:g}s"},
            retry_config={"max_retries": 0},
        )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return the keys that begin with *prefix*, each with its object's content."""
        store = self.store()
        return {
            meta["path"]: bytes(obstore.get(store, meta["path"]).bytes())
            # obstore's own prefix is one of whole names.
            for metas in obstore.list(store, prefix.rpartition("/")[0] or None)
            for meta in metas
            if meta["path"].startswith(prefix)
        }

    def _takes_objects(self) -> bool:
        """Make the bucket if it is missing; say whether something can be stored in it."""
        store = self.store()
        try:
            obstore.put(store, READY, b"ready")
            obstore.delete(store, READY)
        except FileNotFoundError:
            # The filer keeps a bucket as a folder, and obstore can't make one.
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._ports[2]}/buckets/{BUCKET}/", method="POST"
            )
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S):
                return False
        except obstore.exceptions.BaseError:
            return False
        return True
