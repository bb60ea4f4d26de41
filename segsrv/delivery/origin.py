"""The random id of a data directory, by which sinks tell its servers from others.

A sink that keeps positions or holds a lock for a server does so under this id. It stays the same
over restarts, and a copy must have another: else both would take the other's positions for their
own. So the file says which file it is, by the inodes of itself and its folders, and on which
machine. Where that is no longer so, the directory was copied, restored or taken elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from pathlib import Path

import orjson

from segsrv.files import FILE_MODE
from segsrv.journal.slots import SlotFile

logger = logging.getLogger(__name__)

ID_BYTES = 16
SLOT_BYTES = 4 << 10
MACHINE_ID = Path("/etc/machine-id")
MACHINE_CHARS = 16


def open_origin(path: Path, file_mode: int = FILE_MODE) -> str:
    """Return the id that *path* holds, which is made if there is none, or if it is a copy's.

    On a disk that keeps nothing it is another one each time, which is safe: it only means that a
    sink does not recognise the server.

    Raises:
        OSError: The disk refused to read.

    """
    file = SlotFile(path, slot_bytes=SLOT_BYTES, file_mode=file_mode)
    try:
        kept = _decode(file.load().newest)
        if kept is not None and kept[1] == _where(path):
            return kept[0]
        if kept is not None:
            logger.warning("data_dir: copied or moved here, its sinks get to know it by another id")
        origin = secrets.token_hex(ID_BYTES)
        try:
            # Twice: of a file that could not be made before, the inode is known only then.
            for _slot in range(2):
                file.save(orjson.dumps({"id": origin, "there": _where(path)}))
        except OSError as error:
            logger.warning("data_dir: its id can't be kept: %s", error)
        return origin
    finally:
        file.close()


def _decode(data: bytes | None) -> tuple[str, list[object]] | None:
    match orjson.loads(data or b"null"):
        case {"id": str(origin), "there": list(there)}:
            return origin, there
    return None


def _where(path: Path) -> list[object]:
    """Return what changes when *path* is copied: inodes, and which machine this is."""
    folders = (path, path.parent, path.parent.parent)
    inodes = [folder.stat().st_ino if folder.exists() else 0 for folder in folders]
    try:
        machine = hashlib.sha256(MACHINE_ID.read_bytes()).hexdigest()[:MACHINE_CHARS]
    except OSError:
        # Not everywhere, and in a container often nobody's.
        machine = ""
    return [machine, *inodes]
