"""Parts of journals that a sink lagged too far behind for, kept until they are sent again by hand.

Each part is a folder of its own, `<folder>/<time>-<number>/<journal>/`, with the journal's segments
as hard links, and a file `range.json` that says which part of them the sink lacks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segsrv.delivery.cursor import Mark
from segsrv.delivery.inheritance import Inheritance
from segsrv.files import FILE_MODE, make_dir, replace_file, sync_dir
from segsrv.journal import segments

logger = logging.getLogger(__name__)

RANGE = "range.json"
MAKING = ".tmp"


class SetAside:
    """The parts that one sink lacks, at most *bytes_max* of them; belongs to one thread at a time.

    `bytes` counts what is set aside, `lost_bytes` what had to go for want of room.
    """

    def __init__(self, folder: Path, *, bytes_max: int, file_mode: int = FILE_MODE) -> None:
        self.folder = folder
        self.lost_bytes = 0
        self._bytes_max = bytes_max
        self._file_mode = file_mode
        self.bytes = 0
        self._counted_at_ns = 0
        self.recount()

    def recount(self) -> None:
        """Take note of parts that somebody has taken away, as a replay does.

        Raises:
            OSError: The disk refused to read.

        """
        try:
            changed_at_ns = self.folder.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            changed_at_ns = 0
        if changed_at_ns != self._counted_at_ns:
            self.bytes = sum(part["bytes"] for _path, part in parts_of(self.folder))
            self._counted_at_ns = changed_at_ns

    def move(
        self, journals: Mapping[str, tuple[Path, str, Mark, int]], *, keep_bytes: int
    ) -> dict[str, Mark]:
        """Set the oldest of what a sink lacks aside; return the marks to go on from.

        *journals* says of each its folder, its id, the sink's mark and its acknowledged end. About
        *keep_bytes* of each stay for delivery, less where the newest file holds more.

        Raises:
            OSError: The disk refused, and nothing was set aside.

        """
        marks = {}
        refused: OSError | None = None
        now = datetime.now(UTC)
        for name, (directory, journal_id, mark, end) in journals.items():
            if end <= mark.position:
                continue
            try:
                upto = _border(directory, mark.position, end, keep_bytes)
                if upto <= mark.position:
                    continue
                self._keep(now, name, directory, journal_id, mark, upto)
            except OSError as error:
                # What was set aside of others must not be delivered, too.
                refused = error
            else:
                marks[name] = Mark(upto)
        if refused is not None and not marks:
            raise refused
        self._shrink()
        return marks

    def pass_over(self, inherited: Inheritance) -> None:
        """Let a sink go on behind what was set aside, where a crash kept the cursor from saying so.

        Raises:
            OSError: The disk refused to read.

        """
        for _path, part in parts_of(self.folder):
            name, journal_id = part["journal"], part["journal_id"]
            known = inherited.marks.get(name)
            # Without a cursor nothing was ever sent, and all before the part was set aside, too.
            if known is None or known == (journal_id, Mark(*part["start"])):
                inherited.marks[name] = (journal_id, Mark(*part["end"]))
        # What was in hand then is among it.
        inherited.settle()

    def _keep(
        self, now: datetime, name: str, directory: Path, journal_id: str, mark: Mark, upto: int
    ) -> None:
        number = 1
        while (path := self.folder / f"{now:%Y%m%dT%H%M%S}-{name}-{number}").exists():
            number += 1
        making = path.with_name(path.name + MAKING)
        # What a try left that failed, or a crash: its links keep segments on the disk.
        for left in self.folder.glob(f"*-{name}-*{MAKING}"):
            shutil.rmtree(left, ignore_errors=True)
        journal = making / name
        make_dir(journal, self._file_mode)
        for segment in segments.find(directory).segments:
            if segment.base < upto and segment.end > mark.position:
                _link(segment.path, journal / segment.path.name)
        sync_dir(journal)
        part = {
            "journal": name,
            "journal_id": journal_id,
            "start": list(mark),
            "end": [upto, 0],
            "bytes": upto - mark.position,
            "time": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        replace_file(making / RANGE, json.dumps(part).encode(), file_mode=self._file_mode)
        making.rename(path)
        sync_dir(self.folder)
        self.bytes += upto - mark.position
        logger.error(
            "sink: lags too far, set aside folder=%s journal=%s bytes=%d",
            path.name,
            name,
            upto - mark.position,
        )

    def _shrink(self) -> None:
        parts = list(parts_of(self.folder))
        self.bytes = sum(part["bytes"] for _path, part in parts)
        while self.bytes > self._bytes_max and parts:
            path, part = parts.pop(0)
            # What stays is tried again the next time.
            shutil.rmtree(path, ignore_errors=True)
            self.bytes -= part["bytes"]
            self.lost_bytes += part["bytes"]
            logger.error(
                "sink: no room for what was set aside, lost folder=%s bytes=%d limit=%d",
                path.name,
                part["bytes"],
                self._bytes_max,
            )


def parts_of(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the parts in *folder*, the oldest first, with what `range.json` says of each."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix == MAKING:
            continue
        try:
            part = json.loads((path / RANGE).read_bytes())
            part["bytes"] + part["start"][0] + part["end"][0]
        except (OSError, ValueError, LookupError, TypeError):
            logger.warning("set aside: not a part folder=%s", path.name)
            continue
        yield path, part


def _border(directory: Path, start: int, end: int, keep_bytes: int) -> int:
    """Return the first file's border that leaves no more than *keep_bytes*, or the end."""
    bases = [segment.base for segment in segments.find(directory).segments]
    enough = (base for base in bases if base > start and end - base <= keep_bytes)
    return min(enough, default=end)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Not on every file system.
        shutil.copyfile(source, target)
        fd = os.open(target, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
