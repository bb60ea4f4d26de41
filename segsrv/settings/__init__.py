"""What can be configured: the typed model, and the sources that it is read from."""

from segsrv.settings.key import Key
from segsrv.settings.model import MIB, LogFormat, Settings
from segsrv.settings.sink import Secret, SinkConfig, SinkTable

__all__ = ["MIB", "Key", "LogFormat", "Secret", "Settings", "SinkConfig", "SinkTable"]
