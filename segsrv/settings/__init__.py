"""What can be configured: the typed model, and the sources that it is read from."""

from segsrv.settings.model import MIB, Key, Settings

__all__ = ["MIB", "Key", "Settings"]
