"""Tells variables that Kubernetes and Docker set for a service called segsrv from settings.

For every Service of its namespace a pod gets `{NAME}_SERVICE_HOST`, `{NAME}_SERVICE_PORT`, one
`{NAME}_SERVICE_PORT_{PORT_NAME}` for each named port, and what Docker's links set: `{NAME}_PORT`,
`{NAME}_PORT_{NUMBER}_{PROTOCOL}`, and that with `_PROTO`, `_PORT` and `_ADDR`. A Service
`segsrv-metrics` has the name `SEGSRV_METRICS`. They are known by name and value together, so that a
mistyped setting is none of them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable


def is_injected(name: str, value: str) -> bool:
    """Say whether `SEGSRV_{name}={value}` was set by a container runtime."""
    return any(
        pattern.fullmatch(name) and is_right(value) for pattern, is_right in _PATTERNS.items()
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text))


def _is_protocol(text: str) -> bool:
    return text in ("tcp", "udp", "sctp")


def _is_url(text: str) -> bool:
    """Say whether *text* is such as `tcp://10.0.0.1:8080` or `tcp://[fd00::1]:8080`."""
    protocol, _separator, rest = text.partition("://")
    host, _colon, port = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return _is_protocol(protocol) and _is_address(host) and _is_port(port)


_OTHER_SERVICE = r"(?:[A-Z0-9_]+_)?"
_PORT_AND_PROTOCOL = _OTHER_SERVICE + r"PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)"
_PATTERNS: dict[re.Pattern[str], Callable[[str], bool]] = {
    re.compile(_OTHER_SERVICE + "SERVICE_HOST"): _is_address,
    re.compile(_OTHER_SERVICE + "SERVICE_PORT(?:_[A-Z0-9_]+)?"): _is_port,
    re.compile(_OTHER_SERVICE + "PORT"): _is_url,
    re.compile(_PORT_AND_PROTOCOL): _is_url,
    re.compile(_PORT_AND_PROTOCOL + "_PROTO"): _is_protocol,
    re.compile(_PORT_AND_PROTOCOL + "_PORT"): _is_port,
    re.compile(_PORT_AND_PROTOCOL + "_ADDR"): _is_address,
}
