"""Kafka's client library as the sink uses it: its settings, its errors, and what a topic is like.

All that waits is called in the sink's own thread.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError

from segsrv.errors import SegsrvError, SettingsError, SinkMisconfigured, SinkUnavailable
from segsrv.sinks.kafka.options import Address, KafkaOptions

logger = logging.getLogger(__name__)

TEXT_CHARS_MAX = 300
POLL_S = 0.1
"""How often something that waits looks whether it should go on."""

_LOG_IN = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001
_NO_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
)
_RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic {topic}",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "consumer groups segsrv-*",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional ids segsrv-*",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
}
_WRONG = (
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
    KafkaError._INVALID_ARG,  # noqa: SLF001
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError.POLICY_VIOLATION,
)
_DOWN = (KafkaError._ALL_BROKERS_DOWN,)  # noqa: SLF001


class GaveUp(Exception):
    """Nobody waits any more for what a thread is doing."""


class Call:
    """One call from outside: how long it may take, and whether somebody still waits for it."""

    def __init__(self, timeout_s: float) -> None:
        self._ends_at = time.monotonic() + timeout_s
        self.is_given_up = False

    @property
    def left_s(self) -> float:
        return max(self._ends_at - time.monotonic(), 0.0)


class Trouble:
    """What one client of the library says of its connections while it is polled."""

    def __init__(self) -> None:
        self.last: KafkaError | None = None
        self.wrong: KafkaError | None = None
        self.fatal: KafkaError | None = None
        self.is_down = False

    def __call__(self, error: KafkaError) -> None:
        if error.code() in _DOWN:
            self.is_down = True
        else:
            self.last = error
        if error.fatal():
            self.fatal = error
        elif error.code() in (*_LOG_IN, *_WRONG) or _is_distrust(error):
            self.wrong = error

    def forget(self) -> None:
        """Forget all but a fatal error, which a client does not recover from."""
        self.last = self.wrong = None
        self.is_down = False


class Quiet:
    """Takes the library's log, in which each error stands that the sink reports in its own way."""

    def log(self, _level: int, text: str, *args: object) -> None:
        logger.debug(text, *args)


@dataclass(slots=True)
class KafkaStats:
    """Plain counters: producers made, batches that were taken up again, and transactions."""

    producers: int = 0
    resumed: int = 0
    transactions: int = 0


class Client:
    """Where and how to connect; makes the settings of each kind of client."""

    def __init__(
        self,
        address: Address,
        options: KafkaOptions,
        *,
        username: str,
        password: str,
        key_password: str,
    ) -> None:
        self.address = address
        self.options = options
        self._username = username
        self._password = password
        self._key_password = key_password

    @property
    def topic(self) -> str:
        return self.address.topic

    @property
    def protocol(self) -> str:
        """The security protocol; a password goes in the clear only where that was asked for."""
        if self.options.security_protocol is not None:
            return self.options.security_protocol
        if self._username:
            return "sasl_ssl"
        return "ssl" if self.options.ca_file or self.options.cert_file else "plaintext"

    def check_settings(self, where: str) -> None:
        """Refuse settings that contradict each other.

        Raises:
            SettingsError: They do.

        """
        needs_user = self.protocol.startswith("sasl")
        if needs_user and not (self._username and self._password):
            raise SettingsError(f"{where}: security_protocol={self.protocol}: needs user, password")
        if self._username and not needs_user:
            raise SettingsError(
                f"{where}: security_protocol={self.protocol}: knows no user; expected sasl_ssl or "
                "sasl_plaintext"
            )
        files = (self.options.ca_file, self.options.cert_file, self.options.key_file)
        if any(files) and not self.protocol.endswith("ssl"):
            raise SettingsError(f"{where}: security_protocol={self.protocol}: takes no certificate")
        if bool(self.options.cert_file) != bool(self.options.key_file):
            raise SettingsError(f"{where}: cert_file and key_file: give both or neither")

    def config(self, trouble: Trouble, **more: Any) -> dict[str, Any]:
        """Return the settings of one client of the library, for which *trouble* listens.

        Raises:
            SinkMisconfigured: A file that they name can't be read.

        """
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.address.brokers),
            "client.id": "segsrv",
            "security.protocol": self.protocol,
            "socket.keepalive.enable": True,
            "log.connection.close": False,
            "error_cb": trouble,
            "logger": Quiet(),
        }
        options = self.options
        if self.protocol.startswith("sasl"):
            config["sasl.mechanism"] = options.sasl_mechanism
            config["sasl.username"] = self._username
            config["sasl.password"] = self._password
        for name, path in {
            "ssl.ca.location": options.ca_file,
            "ssl.certificate.location": options.cert_file,
            "ssl.key.location": options.key_file,
        }.items():
            if path is not None:
                if not os.access(path, os.R_OK):
                    raise SinkMisconfigured(f"{self.address}: {path} can't be read")
                config[name] = str(path)
        if self._key_password:
            config["ssl.key.password"] = self._key_password
        return config | more

    def error(self, error: KafkaError) -> SegsrvError:
        """Return what delivery should know of *error*: whether it may pass, and a text."""
        code = error.code()
        if code in _LOG_IN:
            text = f"the broker does not let the user {self._username!r} in: wrong password or user"
            if "mechanism" in error.str():
                text = f"the broker does not know sasl_mechanism={self.options.sasl_mechanism}"
            return SinkMisconfigured(f"{self.address}: {text}")
        if code in _RIGHTS:
            what = _RIGHTS[code].format(topic=self.topic)
            return SinkMisconfigured(f"{self.address}: {self.who} has no right to the {what}")
        if code in _NO_TOPIC:
            return SinkMisconfigured(f"{self.address}: there is no topic {self.topic}")
        if code in _WRONG or _is_distrust(error):
            return SinkMisconfigured(f"{self.address}: {_line(error.str())}")
        return SinkUnavailable(f"{self.address}: {_line(error.str())}")

    def too_large(self, limit_bytes: int, *, is_known: bool) -> SegsrvError:
        """Return what a batch within the topic's limit means that the broker found too large.

        *is_known* says that it did so before, and that the limit is still the same.
        """
        if is_known:
            return SinkMisconfigured(
                f"{self.address}: the broker refuses batches of less than {limit_bytes} bytes, "
                "which it says is the limit; set message_bytes_max to less"
            )
        return SinkUnavailable(f"{self.address}: the limit of {limit_bytes} bytes was lowered")

    @property
    def who(self) -> str:
        return f"the user {self._username!r}" if self._username else "who has no user"

    def check(self, trouble: Trouble, call: Call, *, doing: str) -> None:
        """Return if it makes sense to go on waiting.

        Raises:
            GaveUp: Nobody waits any more.
            SinkUnavailable: The brokers are down, or there is no time left.
            SinkMisconfigured: The brokers don't let the client in.

        """
        if call.is_given_up:
            raise GaveUp
        if (wrong := trouble.wrong) is not None:
            raise self.error(wrong)
        said = f": {_line(trouble.last.str())}" if trouble.last else ""
        if trouble.is_down:
            raise SinkUnavailable(f"{self.address}: no broker can be reached{said}")
        if not call.left_s:
            raise SinkUnavailable(f"{self.address}: no answer in time while {doing}{said}")


def _is_distrust(error: KafkaError) -> bool:
    """Say whether one side does not trust the other; any other failure of TLS may pass."""
    return error.code() == KafkaError._SSL and "certificate" in error.str()  # noqa: SLF001


def _line(text: str) -> str:
    """Return a text of the library or the broker as one line of bounded length."""
    return " ".join(text.split())[:TEXT_CHARS_MAX]
