"""Where events go: the protocol of all sinks, and what brings a kind of them into settings."""

from segsrv.sinks.base import Batch, Placement, Sink
from segsrv.sinks.kind import Kind, SinkSpec

__all__ = ["Batch", "Kind", "Placement", "Sink", "SinkSpec"]
