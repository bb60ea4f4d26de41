"""segsrv: a self-hosted event ingest server that speaks the Segment API."""

from segsrv.app import create_app, create_ops_app
from segsrv.errors import SegsrvError, SettingsError
from segsrv.settings import Key, Settings

__version__ = "0.1.0"
__all__ = [
    "Key",
    "SegsrvError",
    "Settings",
    "SettingsError",
    "__version__",
    "create_app",
    "create_ops_app",
]
