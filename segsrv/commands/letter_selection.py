"""Which dead letters a command is asked about."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from segsrv.commands import times
from segsrv.commands.parts import known_keys
from segsrv.files import file_version
from segsrv.journal import letters
from segsrv.journal.letters import Letter
from segsrv.settings import Settings

_SHIPPER = re.compile(r"w\d+-(.+)")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant; None stands for all."""

    directory: Path
    sink: str | None
    reason: str | None
    since_ms: int | None
    until_ms: int | None
    key_ids: Mapping[str, str]

    @classmethod
    def of(cls, flags: argparse.Namespace, settings: Settings) -> Selection:
        since_ms, until_ms = times.span_ms(flags)
        # A letter may name its key by its secret, which no table shows.
        keys = known_keys(settings)
        names = {secret: key.id for key in keys for secret in key.secrets}
        names |= {key.id: key.id for key in keys}
        return cls(
            settings.data_dir / "dead-letter",
            flags.sink_name,
            flags.reason,
            since_ms,
            until_ms,
            names,
        )

    def files(self) -> list[tuple[Path, int]]:
        """Return the files that may hold some, with their sizes in bytes."""
        sizes = ((path, file_version(path)) for path in letters.files(self.directory))
        return [(path, version[1]) for path, version in sizes if version]

    def read(self, path: Path, end: int | None = None) -> Iterator[Letter]:
        """Yield those of a file."""
        for letter in letters.read(path, end):
            if self._has(letter):
                yield letter

    def key_of(self, letter: Letter) -> str:
        """Return the id of a letter's key, if it is known here."""
        return letter.text("key_id") or self.key_ids.get(letter.text("api_key"), "")

    def _has(self, letter: Letter) -> bool:
        if self.reason is not None and letter.text("reason") != self.reason:
            return False
        if self.sink is not None and sink_of(letter) != self.sink:
            return False
        if self.since_ms is None and self.until_ms is None:
            return True
        time_ms = letter.time_ms
        return (self.since_ms is None or time_ms >= self.since_ms) and (
            self.until_ms is None or time_ms < self.until_ms
        )


def sink_of(letter: Letter) -> str:
    """Return the name of the sink that refused the letter; empty for one of ingest."""
    name = letter.text("sink")
    # Servers that delivered each journal by itself wrote the journal's name before the sink's, and
    # no key.
    match = None if "key_id" in letter.fields else _SHIPPER.fullmatch(name)
    return match[1] if match else name
