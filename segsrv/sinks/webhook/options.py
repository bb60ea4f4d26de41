"""What `options` of a webhook's table can say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segsrv.settings.fields import option
from segsrv.sinks.webhook.request import Compress


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """Those of one webhook."""

    method: Literal["POST", "PUT"] = option("POST", "method of the requests")
    headers: dict[str, str] = field(
        default_factory=dict, metadata={"help": "sent with each request, by name"}
    )
    compress: Compress = option("none", "how bodies are compressed: none, gzip or zstd")
    connect_timeout_s: float = option(
        10.0, "longest time to resolve the name, connect and agree on TLS", low=0.1, high=600
    )
    ca_file: Path | None = option(
        None, "PEM file of the authorities to trust, in place of the system's"
    )
    check_method: Literal["none", "HEAD", "GET", "OPTIONS"] = option(
        "none", "request that a check makes; with none it only connects"
    )
