"""Packages that bring kinds of sinks, written as pip leaves them behind."""

import textwrap
from pathlib import Path

WORKING = """
    from dataclasses import dataclass
    from typing import Literal

    from segsrv.settings.fields import option
    from segsrv.sinks import Kind

    @dataclass(frozen=True, kw_only=True)
    class Options:
        level: int = option(1, "how much", low=0, high=9)
        mode: Literal["fast", "slow"] = "fast"
        tags: tuple[str, ...] = ()
        is_quiet: bool = False

    class Nowhere:
        def __init__(self, spec):
            self.spec = spec

        def describe(self):
            return "nowhere"

    KIND = Kind(
        schemes=("nowhere", "noplace"),
        place=lambda spec: spec.url.partition(":")[2].rpartition("@")[2].lstrip("/"),
        make=Nowhere,
        options=Options,
        secrets=("password",),
    )
"""


def install(
    folder: Path, code: str = WORKING, *, package: str = "nowhere", scheme: str = "nowhere"
) -> None:
    """Put a package with one module of *code* into *folder*; its kind of *scheme* is `KIND`."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[segsrv.sinks]\n{scheme} = {module}:KIND\n")
