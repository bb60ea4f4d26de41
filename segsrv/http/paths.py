"""Every path that an SDK may post to, and what each says of the events that arrive there.

SDKs put different things behind a configured base: some add `/v1/batch`, some a letter, some drop
the base's own path. The comments say which does what; proxies that rewrite paths add variants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from segsrv.events import COMPAT, FLAT, SEGMENT, TRACKER, Format
from segsrv.events.counters import PathKind

FLAT_PREFIX = "/api/v1/segment"
COMPAT_PREFIX = "/api/v1/segment/compat"
RAW_PREFIX = "/api/v1/segment/raw"
PREFIXES: tuple[tuple[str, Format], ...] = (
    (FLAT_PREFIX, FLAT),
    (COMPAT_PREFIX, COMPAT),
    (RAW_PREFIX, SEGMENT),
    # `@segment/analytics-node` drops the path of its host, so the root takes events too.
    ("", FLAT),
)
# The integrations that are the SDKs' own, as their settings name them.
SEGMENT_IO = "Segment.io"
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

    A path of the flat format names none: its events are stored in their key's.
    Events from browsers and phones (`is_client`) take the address of their sender; a server sends
    for others, and its events may name an address. On a path for batches (`is_batch`) an object
    without a batch must at least say what type of event it is. With `takes_array` a body is one
    event or an array of them, else one event or a batch. Where the sender is the user's own program
    (`gives_user_agent`), its user agent is that of events that name none.
    What SDKs report of themselves (`is_telemetry`) is no event.
    """

    output: Format
    event_type: str | None = None
    is_client: bool = False
    takes_array: bool = False
    is_batch: bool = False
    gives_user_agent: bool = False
    is_telemetry: bool = False

    @property
    def kind(self) -> PathKind:
        """What the path is counted as; one that takes both batches and single events is `batch`."""
        if self.is_telemetry:
            return "telemetry"
        if self.gives_user_agent:
            return "pixel"
        return "single" if self.event_type else "batch"


TELEMETRY = Target(FLAT, is_telemetry=True)
"""Of paths whose bodies are not stored."""


def ingest_paths() -> dict[str, Target]:
    """Return the target of each path, without slashes doubled or at the end.

    A path may be a pattern: `{name}` is any text without a slash.
    """
    paths: dict[str, Target] = {}
    for prefix, output in PREFIXES:
        for suffix, target in _suffixes(output):
            paths[prefix + suffix] = target
        if prefix:
            paths[prefix] = Target(output)
    # @jitsu/js: in a browser /api/s/<type>, on a server /api/s/s2s/<type>.
    for name in (*CALLS.values(), "batch"):
        event_type = None if name == "batch" else name
        is_batch = name == "batch"
        paths[f"/api/s/{name}"] = Target(FLAT, event_type, is_client=True, is_batch=is_batch)
        paths[f"/api/s/s2s/{name}"] = Target(FLAT, event_type, is_batch=is_batch)
    # @jitsu/sdk-js, the older tracker: in a browser /api/v1/event, on a server /api/v1/s2s/event,
    # and with `randomize_url` a name that no list of blocked paths can have.
    for path, is_client in (
        ("/api/v1/event", True),
        ("/api/v1/s2s/event", False),
        ("/api.{random}", True),
    ):
        paths[path] = Target(TRACKER, is_client=is_client, takes_array=True)
    return paths


def pixel_paths() -> dict[str, Target]:
    """Return the target of each path that images are fetched from: their query holds an event.

    Segment has them below `/v1/pixel`, RudderStack below `/pixel/v1`.
    """
    return {
        f"{prefix}{base}/{name}": Target(output, name, is_client=True, gives_user_agent=True)
        for prefix, output in PREFIXES
        for base in ("/v1/pixel", "/pixel/v1")
        for name in CALLS.values()
    }


def telemetry_paths() -> list[str]:
    """Return the paths that SDKs post their own counters to; they are answered and not stored."""
    return [prefix + suffix for prefix, _output in PREFIXES for suffix in ("/m", "/v1/m", "/sdk/m")]


def settings_paths() -> dict[str, str]:
    """Return the patterns that SDKs fetch their settings from, and the integration each starts.

    A browser SDK wants its own integration and no other. Customer.io's asks for the same path as
    Segment's and says nothing of itself, so pages give it a base of its own.
    """
    return {
        prefix + pattern: integration
        for prefix, _output in PREFIXES
        for pattern, integration in (
            ("/v1/projects/{key}/settings", SEGMENT_IO),
            ("/projects/{key}/settings", SEGMENT_IO),
            # A proxy's doubling.
            ("/v1/projects/projects/{key}/settings", SEGMENT_IO),
            ("/customerio/v1/projects/{key}/settings", CUSTOMERIO),
        )
    }


def source_config_paths() -> list[str]:
    """Return the paths that RudderStack's browser SDK fetches its settings from."""
    return [f"{prefix}/sourceConfig" for prefix, _output in PREFIXES]


def normalised(path: str) -> str:
    """Collapse doubled slashes and drop one at the end: SDKs join hosts and paths carelessly."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _suffixes(output: Format) -> Iterator[tuple[str, Target]]:
    server_batch = Target(output, is_batch=True)
    client_batch = Target(output, is_client=True, is_batch=True)
    # June's SDKs have below /sdk what Segment's have below /v1.
    for version in ("", "/v1", "/sdk"):
        # Python, Go, PHP, Rust and old Node post to v1/batch, Java and Ruby to v1/import.
        yield f"{version}/batch", server_batch
        yield f"{version}/import", server_batch
        # Browsers, Kotlin, Swift and C# post batches to b.
        yield f"{version}/b", client_batch
        yield f"{version}/batch/b", client_batch
        for letter, name in CALLS.items():
            yield f"{version}/{letter}", Target(output, name, is_client=True)
            # Rust and users of curl spell the call out.
            yield f"{version}/{name}", Target(output, name)
    # RudderStack's browser SDK with `useBeacon`.
    yield "/beacon/v1/batch", client_batch
