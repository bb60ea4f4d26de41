"""The processes around the application: sockets, workers and their parent, signals, an end."""

from segsrv.process.listening import check_address
from segsrv.process.serving import serve

__all__ = ["check_address", "serve"]
