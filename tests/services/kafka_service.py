"""One Kafka broker in KRaft mode, without ZooKeeper and without a controller of its own.

It listens at `port` for the server under test, at `direct_port` for the tests themselves, at
`sasl_port`, which asks for a user and a password, and at `tls_port` if openssl is installed.
Whoever comes without a user may do all.
"""

import shutil
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.certificates import make_certificate
from tests.services.base import BUILD, Service, is_listening

HOME = BUILD / "kafka"
CONFIGURATION = Path(__file__).resolve().parent / "kafka"
CLUSTER_ID = "c2Vnc3J2LWthZmthLXRlcw"
USERS = {"writer": "writer-secret", "reader": "reader-secret"}
FORMAT_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 2.0


class KafkaService(Service):
    """`advertised_port` is the one that clients of `port` are told to connect to: a proxy's."""

    name = "kafka"
    port_offsets = (1, 2, 3, 4)
    heap_mb = 160

    def __init__(self, folder: Path, *, data_dir: Path | None = None) -> None:
        super().__init__(folder, data_dir=data_dir)
        self.direct_port, self.sasl_port = self.port + 1, self.port + 2
        self.tls_port, self._controller_port = self.port + 3, self.port + 4
        self.advertised_port = self.port
        self.certificate: Path | None = None

    @classmethod
    def installed(cls) -> str | None:
        if (HOME / ".installed").exists():
            return None
        return "no Kafka; run tests/services/install.sh kafka"

    def prepare(self) -> None:
        if self.certificate is None and shutil.which("openssl"):
            self.certificate, key = make_certificate(self.folder, "kafka")
            self._keystore.write_text(key.read_text() + self.certificate.read_text())
        self._properties.write_text(self._settings())
        if (self.data_dir / "meta.properties").exists():
            return
        command = [*self._java("kafka.tools.StorageTool"), "format", "--standalone"]
        command += ["--cluster-id", CLUSTER_ID, "--config", str(self._properties)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=FORMAT_TIMEOUT_S)
        if done.returncode:
            raise RuntimeError(f"kafka's storage: {done.stdout.decode()} {done.stderr.decode()}")

    def command(self) -> list[str]:
        return [*self._java("kafka.Kafka"), str(self._properties)]

    def is_ready(self) -> bool:
        if not is_listening(self.direct_port):
            return False
        try:
            found = self.admin().list_topics(timeout=ANSWER_TIMEOUT_S)
        except KafkaException:
            return False
        # Until then it knows of no broker, not even itself.
        return bool(found.brokers) and is_listening(self.port)

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}/events"

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": f"127.0.0.1:{self.direct_port}", "log_level": 0})

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _keystore(self) -> Path:
        return self.folder / "keystore.pem"

    def _java(self, main: str) -> list[str]:
        # Kafka's own start script asks for these; C1 alone starts in half the time.
        options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        return [
            "java",
            f"-Xmx{self.heap_mb}m",
            *options,
            f"-Dlog4j2.configurationFile={CONFIGURATION / 'log4j2.properties'}",
            "-cp",
            f"{HOME / 'libs'}/*",
            main,
        ]

    def _settings(self) -> str:
        listeners = {
            "CLIENT": (self.port, self.advertised_port, "PLAINTEXT"),
            "DIRECT": (self.direct_port, self.direct_port, "PLAINTEXT"),
            "SASL": (self.sasl_port, self.sasl_port, "SASL_PLAINTEXT"),
            "CONTROLLER": (self._controller_port, self._controller_port, "PLAINTEXT"),
        }
        if self.certificate is not None:
            listeners["TLS"] = (self.tls_port, self.tls_port, "SSL")
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "DIRECT",
            "listeners": _joined(
                f"{n}://127.0.0.1:{port}" for n, (port, _, _) in listeners.items()
            ),
            "advertised.listeners": _joined(
                f"{n}://127.0.0.1:{told}" for n, (_, told, _) in listeners.items()
            ),
            "listener.security.protocol.map": _joined(
                f"{n}:{protocol}" for n, (_, _, protocol) in listeners.items()
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": self._keystore,
            "listener.name.sasl.plain.sasl.jaas.config": login,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": "User:ANONYMOUS",
            "log.dirs": self.data_dir,
            # A broker that was killed is let in again only after its old session has ended.
            "broker.session.timeout.ms": 1_500,
            "broker.heartbeat.interval.ms": 500,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.segment.bytes": 1 << 20,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.segment.bytes": 1 << 20,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "group.initial.rebalance.delay.ms": 0,
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.cleaner.enable": "false",
            "log.segment.bytes": 1 << 20,
            "log.index.size.max.bytes": 64 << 10,
            "log.flush.offset.checkpoint.interval.ms": 60_000,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


def _joined(parts: object) -> str:
    return ",".join(parts)  # type: ignore[arg-type]
