"""What a Kafka sink can be told, and where it leads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segsrv.settings.fields import option

Mode = Literal["idempotent", "transactional"]
KeyBy = Literal["none", "user_id", "anonymous_id", "key_id", "event_id"]
Compression = Literal["zstd", "lz4", "gzip", "none"]
SecurityProtocol = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Options of the table, and parameters of the URL."""

    mode: Mode = option(
        "idempotent", "at least once, or transactional: exactly once, one transaction a batch"
    )
    key: KeyBy = option("none", "what the record's key is; events of one key stay in order")
    compression: Compression = option("zstd", "how batches of records are compressed")
    brokers: tuple[str, ...] = option((), "more brokers to begin with, each HOST or HOST:PORT")
    create: bool = option(True, "make the topic if it is missing")
    partitions: int | None = option(None, "partitions of a topic that is made", low=1, high=100_000)
    replication_factor: int | None = option(
        None, "copies of each partition of a topic that is made", low=1, high=100
    )
    message_bytes_max: int | None = option(
        None, "the topic's `max.message.bytes`, where it can't be read", low=2_000, high=1 << 30
    )
    security_protocol: SecurityProtocol | None = option(
        None, "TLS and log-in: plaintext, ssl, sasl_plaintext or sasl_ssl"
    )
    sasl_mechanism: SaslMechanism = option("PLAIN", "how the user logs in")
    username: str = option("", "user who logs in, with the secret `password`")
    ca_file: Path | None = option(None, "certificates of authorities to trust, in PEM")
    cert_file: Path | None = option(None, "certificate to show to brokers, in PEM")
    key_file: Path | None = option(
        None, "key of that certificate, in PEM; the secret `key_password` opens it"
    )


@dataclass(frozen=True, slots=True)
class Address:
    """`brokers` are HOST:PORT, the URL's first; user and password are as the URL has them."""

    brokers: tuple[str, ...]
    topic: str
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"kafka://{self.brokers[0]}/{self.topic}"
