"""Finds the function that `package.module:function` names, and the files that it came from."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from segsrv.errors import SegsrvError
from segsrv.transform.context import Function

FILES_MAX = 500
"""So many files are watched at most."""


class NotLoaded(SegsrvError):
    """A transformation can't be imported, or is no function; the text names it and says why."""


def load(name: str) -> Function:
    """Import what *name* names.

    Raises:
        NotLoaded: It can't be.

    """
    module_name, _colon, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:
        raise NotLoaded(f"{name}: can't be imported: {said(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "has no" if function is None else "is no function:"
        raise NotLoaded(f"{name}: the module {what} {function_name}")
    return function  # type: ignore[no-any-return]


def files_of(names: Iterable[str]) -> list[str]:
    """Return the files of the modules of *names*, and of what was loaded beside them.

    That is what their packages hold, or, for a module in none, what lies in its folder.
    """
    modules = {name.partition(":")[0] for name in names}
    packages = tuple(f"{module.partition('.')[0]}." for module in modules if "." in module)
    loaded = {name: _file_of(module) for name, module in list(sys.modules.items())}
    folders = {
        file.parent for name in modules if "." not in name and (file := loaded[name]) is not None
    }
    files = {
        str(file)
        for name, file in loaded.items()
        if file is not None
        and (
            name in modules
            or f"{name}.".startswith(packages)
            or ("." not in name and file.parent in folders)
        )
    }
    return sorted(files)[:FILES_MAX]


def _file_of(module: object) -> Path | None:
    path = getattr(module, "__file__", None)
    return Path(path).resolve() if isinstance(path, str) and path.endswith(".py") else None


def said(error: BaseException) -> str:
    """Return an error as one short line."""
    text = re.sub(r"\s+", " ", str(error)).strip()[:500]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
