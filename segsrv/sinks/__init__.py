"""Where events go: the protocol of all sinks, and what brings a kind of them into settings."""

from segsrv.sinks.base import Batch, Delivered, Placement, Sink
from segsrv.sinks.kind import Kind, SinkSpec

__all__ = ["Batch", "Delivered", "Kind", "Placement", "Sink", "SinkSpec"]
