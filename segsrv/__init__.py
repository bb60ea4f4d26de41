"""segsrv: a self-hosted event ingest server that speaks the Segment API."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_MODULES = {
    "Key": "segsrv.settings",
    "SegsrvError": "segsrv.errors",
    "Settings": "segsrv.settings",
    "SettingsError": "segsrv.errors",
    "create_app": "segsrv.app",
    "create_ops_app": "segsrv.app",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a process that needs one small part must not load a server."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
