"""How settings ask for a Kafka sink: `kafka://host:9092/topic`."""

from __future__ import annotations

import re
from urllib.parse import unquote

from segsrv.errors import SettingsError
from segsrv.sinks.kafka.client import Client
from segsrv.sinks.kafka.options import Address, KafkaOptions
from segsrv.sinks.kafka.sink import KafkaSink
from segsrv.sinks.kind import Kind, SinkSpec

PORT = 9092
TOPIC_CHARS_MAX = 249
_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def address_of(spec: SinkSpec) -> Address:
    """Read the URL, and the option `brokers`.

    Raises:
        SettingsError: One is not of this form; the text holds no password.

    """
    # A password may hold a slash that should have been escaped; no message may have its rest.
    user, _at, place = spec.url.removeprefix("kafka://").rpartition("@")
    hosts, _slash, topic = place.partition("/")
    if not hosts or not topic or not spec.url.startswith("kafka://"):
        raise SettingsError(f"{spec.where}: expected kafka://HOST:PORT/TOPIC")
    if not _TOPIC.fullmatch(topic) or topic in (".", "..") or len(topic) > TOPIC_CHARS_MAX:
        raise SettingsError(
            f"{spec.where}: the topic {topic[:TOPIC_CHARS_MAX]!r}: expected at most "
            f"{TOPIC_CHARS_MAX} of A-Z, a-z, 0-9, dot, dash and underscore"
        )
    username, _colon, password = user.partition(":")
    brokers = [_broker(host, spec) for host in (*hosts.split(","), *spec.options.brokers)]
    return Address(tuple(dict.fromkeys(brokers)), topic, unquote(username), unquote(password))


def _broker(text: str, spec: SinkSpec) -> str:
    found = _BROKER.fullmatch(text.strip())
    port = int(found[2] or PORT) if found else 0
    if not found or not 0 < port < 1 << 16:
        raise SettingsError(f"{spec.where}: the broker {text!r}: expected HOST or HOST:PORT")
    return f"{found[1].lower()}:{port}"


def _place(spec: SinkSpec) -> str:
    # Of the brokers the first one only: others come and go, and lead to the same topic.
    address = address_of(spec)
    return f"{address.brokers[0]}/{address.topic}"


def _make(spec: SinkSpec) -> KafkaSink:
    address, options = address_of(spec), spec.options
    if address.username and options.username:
        raise SettingsError(f"{spec.where}: the user is given twice, in the URL and as username")
    if address.password and "password" in spec.secrets:
        raise SettingsError(f"{spec.where}: the password is given twice, in the URL and in secrets")
    client = Client(
        address,
        options,
        username=address.username or options.username,
        password=address.password or spec.secrets.get("password", ""),
        key_password=spec.secrets.get("key_password", ""),
    )
    client.check_settings(spec.where)
    return KafkaSink(
        client,
        name=spec.name,
        origin="" if spec.is_once else spec.origin,
        send_timeout_s=spec.config.send_timeout_s,
        queue_bytes=spec.config.batch_bytes_max,
    )


KAFKA = Kind(
    schemes=("kafka",),
    place=_place,
    make=_make,
    options=KafkaOptions,
    secrets=("password", "key_password"),
)
