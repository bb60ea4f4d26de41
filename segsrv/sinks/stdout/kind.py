"""How settings ask for standard output: `stdout:`, and nothing behind it."""

from __future__ import annotations

from segsrv.errors import SettingsError
from segsrv.sinks.kind import Kind, SinkSpec
from segsrv.sinks.stdout.sink import StdoutSink, has_stdout


def _place(spec: SinkSpec) -> str:
    if spec.url != "stdout:":
        raise SettingsError(f"{spec.where}: expected stdout: and nothing behind it")
    return ""


def _make(spec: SinkSpec) -> StdoutSink:
    if not has_stdout():
        raise SettingsError(f"{spec.where}: the standard output is closed")
    return StdoutSink(
        spec.settings.data_dir / "state" / "stdout.lock",
        file_mode=int(spec.settings.file_mode, 8),
    )


STDOUT = Kind(schemes=("stdout",), place=_place, make=_make, has_query=False, default_url="stdout:")
