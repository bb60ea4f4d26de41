"""Every path that an SDK may post to, and what each says of the events that arrive there.

SDKs put different things behind a configured base: some add `/v1/batch`, some a letter, some drop
the base's own path. The comments say which does what; proxies that rewrite paths add variants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from segsrv.events import Format

FLAT_PREFIX = "/api/v1/segment"
COMPAT_PREFIX = "/api/v1/segment/compat"
PREFIXES: tuple[tuple[str, Format], ...] = (
    (FLAT_PREFIX, "flat"),
    (COMPAT_PREFIX, "compat"),
    # `@segment/analytics-node` drops the path of its host, so the root takes events too.
    ("", "flat"),
)
# The integrations that are the SDKs' own, as their settings name them.
SEGMENT = "Segment.io"
CUSTOMERIO = "Customer.io Data Pipelines"
CALLS = {
    "t": "track",
    "i": "identify",
    "p": "page",
    "g": "group",
    "a": "alias",
    "s": "screen",
}


@dataclass(slots=True, frozen=True)
class Target:
    """What a path says: the stored format, a type for events without one, who sends there.

    Events from browsers and phones (`is_client`) take the address of their sender; a server sends
    for others, and its events may name an address.
    """

    output: Format
    event_type: str | None = None
    is_client: bool = False


def ingest_paths() -> dict[str, Target]:
    """Return the target of each path, without slashes doubled or at the end."""
    paths: dict[str, Target] = {}
    for prefix, output in PREFIXES:
        for suffix, event_type, is_client in _suffixes():
            paths[prefix + suffix] = Target(output, event_type, is_client)
        if prefix:
            paths[prefix] = Target(output)
    # @jitsu/js: in a browser /api/s/<type>, on a server /api/s/s2s/<type>.
    for name in (*CALLS.values(), "batch"):
        event_type = None if name == "batch" else name
        paths[f"/api/s/{name}"] = Target("flat", event_type, is_client=True)
        paths[f"/api/s/s2s/{name}"] = Target("flat", event_type)
    return paths


def telemetry_paths() -> list[str]:
    """Return the paths that SDKs post their own counters to; they are answered and not stored."""
    return [prefix + suffix for prefix, _output in PREFIXES for suffix in ("/m", "/v1/m")]


def settings_paths() -> dict[str, str]:
    """Return the patterns that SDKs fetch their settings from, and the integration each starts.

    A browser SDK wants its own integration and no other. Customer.io's asks for the same path as
    Segment's and says nothing of itself, so pages give it a base of its own.
    """
    return {
        prefix + pattern: integration
        for prefix, _output in PREFIXES
        for pattern, integration in (
            ("/v1/projects/{key}/settings", SEGMENT),
            ("/projects/{key}/settings", SEGMENT),
            # A proxy's doubling.
            ("/v1/projects/projects/{key}/settings", SEGMENT),
            ("/customerio/v1/projects/{key}/settings", CUSTOMERIO),
        )
    }


def source_config_paths() -> list[str]:
    """Return the paths that RudderStack's browser SDK fetches its settings from."""
    return [f"{prefix}/sourceConfig" for prefix, _output in PREFIXES]


def normalised(path: str) -> str:
    """Collapse doubled slashes and drop one at the end: SDKs join hosts and paths carelessly."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _suffixes() -> Iterator[tuple[str, str | None, bool]]:
    for version in ("", "/v1"):
        # Python, Go, PHP, Rust and old Node post to v1/batch, Java and Ruby to v1/import.
        yield f"{version}/batch", None, False
        yield f"{version}/import", None, False
        # Browsers, Kotlin, Swift and C# post batches to b.
        yield f"{version}/b", None, True
        yield f"{version}/batch/b", None, True
        for letter, name in CALLS.items():
            yield f"{version}/{letter}", name, True
            # Rust and users of curl spell the call out.
            yield f"{version}/{name}", name, False
