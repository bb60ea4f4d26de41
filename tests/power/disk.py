"""Files that lose power: what a disk may hold afterwards, of all that was done below a folder.

While a `Disk` is entered, every call into `os` that changes something below its root, `open` for
writing included, is carried out as usual and recorded. `lose_power` makes a new folder with a state
that this model allows:

- Data is kept in blocks of 4 KiB. Each block that was written since its file's last sync reads as
  it was at that sync or after any of the writes since, whatever the other blocks do. The same goes
  for the file's size. Beyond what was ever written there, and persisted, a block reads as zeros.
- After `fsync` or `fdatasync` all of the file is safe. After one that failed it is not, even if a
  later one succeeds: the kernel may have dropped the pages. Only what is written again is.
- A write that asks for its own sync makes safe the blocks that it wrote, no others, and the size.
  It is a write and a sync: either may fail, or be the last that the process did.
- The names in a folder persist in order up to some point, which is not before the folder's last
  sync; only removals may come before what was done earlier. So without one a new name may be there
  or be missing. A rename happens whole or not at all, between two folders too.
- A file that lost its last name is gone, and so is all below such a folder.

A call can be made to fail, or to be the last of its process: `fail` and `kill`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.power.nodes import Choice, File, Folder, change_both

WRITES = ("write", "writev", "pwrite", "pwritev", "sendfile")
SYNCS = ("fsync", "fdatasync")
NAMES = ("open", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link")
SIZES = ("ftruncate", "truncate", "posix_fallocate")
CALLS = (*WRITES, *SYNCS, *NAMES, *SIZES)
_OTHERS = ("close", "dup", "symlink", "copy_file_range")
_DSYNC = os.RWF_DSYNC | os.RWF_SYNC


class Killed(BaseException):
    """The process ends at this call; it, and all later ones, did nothing."""


@dataclass(slots=True)
class _Open:
    node: File | Folder
    is_appending: bool


@dataclass(slots=True)
class _Fault:
    after: int
    calls: frozenset[str]
    error: BaseException
    times: int


class Disk:
    """Records what is done below *root*, which exists; enter it to begin."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.calls = 0
        self.is_dead = False
        self.piece_bytes_max = 1 << 30
        """A write takes no more than this at once."""
        self.watch: Callable[[], None] = lambda: None
        """Called before each recorded call, with the disk as it is then."""
        self._top = _loaded(self.root)
        self._files: dict[int, _Open] = {}
        # Files that only keep a place for others.
        self._spare: set[int] = set()
        self._lock = threading.RLock()
        self._fault: _Fault | None = None
        self._real = {name: getattr(os, name) for name in (*CALLS, *_OTHERS)}
        self._real_open = io.open

    def __enter__(self) -> Self:
        for name in self._real:
            setattr(os, name, getattr(self, "_" + name))
        io.open = builtins.open = self._io_open
        return self

    def __exit__(self, *_error: object) -> None:
        for name, call in self._real.items():
            setattr(os, name, call)
        io.open = builtins.open = self._real_open

    def fail(self, after: int, code: int, calls: Iterable[str] = CALLS, *, times: int = 1) -> None:
        """Let *times* of *calls* fail with *code*, after *after* more of them succeeded."""
        self._fault = _Fault(after, frozenset(calls), OSError(code, os.strerror(code)), times)

    def kill(self, after: int, calls: Iterable[str] = CALLS) -> None:
        """Let one of *calls* be the last of the process, after *after* more of them."""
        self._fault = _Fault(after, frozenset(calls), Killed(), 1)

    def end_process(self) -> None:
        """Close the process's files, as its end does, and let a new one begin."""
        with self._lock:
            for fd in {*self._files, *self._spare}:
                with contextlib.suppress(OSError):
                    self._real["close"](fd)
            self._files.clear()
            self._spare.clear()
            self._fault = None
            self.is_dead = False

    @property
    def has_fault(self) -> bool:
        """Whether a call is still to fail."""
        return self._fault is not None

    def clear_fault(self) -> None:
        self._fault = None

    def lose_power(self, choice: Choice | int, target: Path) -> Path:
        """Make *target* a folder as the disk may be now, by a choice or the seed of one."""
        if isinstance(choice, int):
            choice = Choice.random(random.Random(choice))
        with self._lock:
            target.mkdir()
            self._top.persist(choice, target)
        return target

    def states(self, folder: Path, seeds: Iterable[int] = ()) -> Iterator[tuple[str, Path]]:
        """Yield a name and a folder for each extreme state, and for some at random."""
        choices = {**Choice.extremes(), **{f"seed {seed}": seed for seed in seeds}}
        for name, choice in choices.items():
            yield name, self.lose_power(choice, folder / name.replace(" ", "-"))

    def _step(self, name: str) -> BaseException | None:
        """Count a call; return what it is to fail with."""
        if self.is_dead:
            raise Killed
        self.watch()
        self.calls += 1
        fault = self._fault
        if fault is None or name not in fault.calls:
            return None
        if fault.after:
            fault.after -= 1
            return None
        fault.times -= 1
        if not fault.times:
            self._fault = None
        self.is_dead = isinstance(fault.error, Killed)
        return fault.error

    def _change(self, name: str) -> None:
        if (error := self._step(name)) is not None:
            raise error.with_traceback(None)

    def _place(self, path: Any, dir_fd: int | None = None) -> tuple[Folder, str] | None:
        """Return the folder and the name of *path*, None if it is not below the root."""
        if isinstance(path, int):
            return None
        text = os.fsdecode(path)
        if dir_fd is not None and not text.startswith("/"):
            entry = self._files.get(dir_fd)
            return (entry.node, text) if entry and isinstance(entry.node, Folder) else None
        text = os.path.abspath(text)  # noqa: PTH100
        root = str(self.root)
        if text == root:
            return self._top, ""
        if not text.startswith(root + "/"):
            return None
        folder = self._top
        *parents, name = text.removeprefix(root + "/").split("/")
        for parent in parents:
            below = folder.entries.get(parent)
            if not isinstance(below, Folder):
                # The real call then says what is wrong.
                return Folder(), name
            folder = below
        return folder, name

    def _node(self, path: Any, dir_fd: int | None = None) -> File | Folder | None:
        place = self._place(path, dir_fd)
        if place is None:
            return None
        folder, name = place
        return folder.entries.get(name) if name else folder

    def _file(self, fd: int) -> File | None:
        entry = self._files.get(fd)
        return entry.node if entry and isinstance(entry.node, File) else None

    # What `os` is given while the disk is entered; each has the signature of the real one.

    def _open_below(self, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
        place = self._place(path, dir_fd)
        if place is None:
            fd = self._real["open"](path, flags, mode, dir_fd=dir_fd)
            self._files.pop(fd, None)
            if path == os.devnull:
                self._spare.add(fd)
            return fd
        assert flags & os.O_TMPFILE != os.O_TMPFILE
        folder, name = place
        if flags & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR):
            self._change("open")
        node = folder.entries.get(name) if name else folder
        fd = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if node is None:
            node = File()
            folder.change({name: node})
        if flags & os.O_TRUNC and isinstance(node, File):
            node.truncate(0)
        self._files[fd] = _Open(node, is_appending=bool(flags & os.O_APPEND))
        return fd

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            return self._open_below(path, flags, mode, dir_fd)

    def _close(self, fd: int) -> None:
        with self._lock:
            self._files.pop(fd, None)
            self._spare.discard(fd)
            self._real["close"](fd)

    def _dup(self, fd: int) -> int:
        with self._lock:
            copy = self._real["dup"](fd)
            self._files.pop(copy, None)
            if fd in self._files:
                self._files[copy] = self._files[fd]
            if fd in self._spare:
                self._spare.add(copy)
            return copy

    def _put(
        self, name: str, fd: int, data: bytes, offset: int | None, call: Callable[[bytes], int]
    ) -> int | None:
        """Write *data*; None if *fd* is no file below the root."""
        node = self._file(fd)
        if node is None:
            return None
        error = self._step(name)
        if isinstance(error, Killed):
            raise error
        if error is not None:
            # A write that fails may have done a part of its work.
            data = data[: len(data) // 2]
        data = data[: self.piece_bytes_max]
        if offset is None:
            entry = self._files[fd]
            offset = node.size if entry.is_appending else os.lseek(fd, 0, os.SEEK_CUR)
        written = call(data) if data else 0
        node.write(offset, data[:written])
        if error is not None:
            raise error
        return written

    def _write(self, fd: int, data: Any) -> int:
        with self._lock:
            done = self._put(
                "write", fd, bytes(data), None, lambda part: self._real["write"](fd, part)
            )
        return self._real["write"](fd, data) if done is None else done

    def _writev(self, fd: int, parts: Any) -> int:
        with self._lock:
            if self._file(fd) is not None:
                return self._put(
                    "writev",
                    fd,
                    b"".join(parts),
                    None,
                    lambda part: self._real["write"](fd, part),
                )
        return self._real["writev"](fd, parts)

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        with self._lock:
            done = self._put(
                "pwrite",
                fd,
                bytes(data),
                offset,
                lambda part: self._real["pwrite"](fd, part, offset),
            )
        return self._real["pwrite"](fd, data, offset) if done is None else done

    def _pwritev(self, fd: int, parts: Any, offset: int, flags: int = 0) -> int:
        with self._lock:
            node = self._file(fd)
            if node is not None:
                data = b"".join(parts)
                at = node.size if flags & os.RWF_APPEND or offset < 0 else offset
                done = self._put(
                    "pwritev", fd, data, at, lambda part: self._real["pwrite"](fd, part, at)
                )
                if flags & _DSYNC:
                    self._sync_node("fdatasync", node, at, at + done)
                return done
        return self._real["pwritev"](fd, parts, offset, flags)

    def _sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int, *rest: Any) -> int:
        with self._lock:
            if self._file(out_fd) is not None:
                if offset is None:
                    return self._write(out_fd, os.read(in_fd, count))
                return self._write(out_fd, os.pread(in_fd, count, offset))
        return self._real["sendfile"](out_fd, in_fd, offset, count, *rest)

    def _copy_file_range(self, src: int, dst: int, *rest: Any, **more: Any) -> int:
        if self._file(dst) is not None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return self._real["copy_file_range"](src, dst, *rest, **more)

    def _sync(self, name: str, fd: int) -> None:
        with self._lock:
            entry = self._files.get(fd)
            if entry is not None:
                self._sync_node(name, entry.node)
                return
        self._real[name](fd)

    def _sync_node(self, name: str, node: File | Folder, *span: int) -> None:
        error = self._step(name)
        if error is not None:
            if not isinstance(error, Killed):
                node.fail_sync(*span)
            raise error
        # The real disk is not asked: it would only cost time.
        node.sync(*span)

    def _fsync(self, fd: int) -> None:
        self._sync("fsync", fd if isinstance(fd, int) else fd.fileno())

    def _fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd if isinstance(fd, int) else fd.fileno())

    def _ftruncate(self, fd: int, size: int) -> None:
        with self._lock:
            node = self._file(fd)
            if node is not None:
                self._change("ftruncate")
            self._real["ftruncate"](fd, size)
            if node is not None:
                node.truncate(size)

    def _truncate(self, path: Any, size: int) -> None:
        if isinstance(path, int):
            self._ftruncate(path, size)
            return
        with self._lock:
            node = self._node(path)
            if node is not None:
                self._change("truncate")
            self._real["truncate"](path, size)
            if isinstance(node, File):
                node.truncate(size)

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        with self._lock:
            node = self._file(fd)
            if node is not None:
                self._change("posix_fallocate")
            self._real["posix_fallocate"](fd, offset, size)
            if node is not None and node.size < offset + size:
                node.truncate(offset + size)

    def _move(self, name: str, source: Any, target: Any, dirs: dict[str, int]) -> None:
        with self._lock:
            old = self._place(source, dirs.get("src_dir_fd"))
            new = self._place(target, dirs.get("dst_dir_fd"))
            assert (old is None) == (new is None), "a move into the disk or out of it"
            if old is not None:
                self._change(name)
            self._real[name](source, target, **dirs)
            if old is not None and new is not None:
                change_both(*old, *new)

    def _rename(self, source: Any, target: Any, **dirs: int) -> None:
        self._move("rename", source, target, dirs)

    def _replace(self, source: Any, target: Any, **dirs: int) -> None:
        self._move("replace", source, target, dirs)

    def _link(self, source: Any, target: Any, **options: Any) -> None:
        with self._lock:
            place, node = self._place(target), self._node(source)
            if place is not None:
                self._change("link")
            self._real["link"](source, target, **options)
            if place is not None:
                place[0].change({place[1]: node})

    def _symlink(self, source: Any, target: Any, **options: Any) -> None:
        assert self._place(target) is None, "symbolic links are not modelled"
        self._real["symlink"](source, target, **options)

    def _enter(
        self, name: str, path: Any, dir_fd: int | None, node: Folder | None, *rest: int
    ) -> None:
        with self._lock:
            place = self._place(path, dir_fd)
            if place is not None:
                self._change(name)
            self._real[name](path, *rest, dir_fd=dir_fd)
            if place is not None:
                place[0].change({place[1]: node})

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._enter("mkdir", path, dir_fd, Folder(), mode)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._enter("unlink", path, dir_fd, None)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._enter("remove", path, dir_fd, None)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._enter("rmdir", path, dir_fd, None)

    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any):
        """Open as the built-in does, so that what is written goes through `os`."""
        is_tracked = file in self._files if isinstance(file, int) else self._place(file) is not None
        if not is_tracked or not set(mode) & set("wax+"):
            return self._real_open(file, mode, buffering, *rest, **more)
        if isinstance(file, int):
            fd = file
        else:
            flags = os.O_RDWR if "+" in mode else os.O_WRONLY
            flags |= {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL}.get(mode[0], 0)
            flags |= os.O_CREAT | os.O_APPEND if mode[0] == "a" else 0
            opener = more.pop("opener", None) or (lambda path, how: os.open(path, how, 0o666))
            fd = opener(file, flags)
        raw = _Raw(self, fd, file, mode)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)


class _Raw(io.RawIOBase):
    """A file whose every write is a call into `os`."""

    def __init__(self, disk: Disk, fd: int, name: Any, mode: str) -> None:
        self._disk = disk
        self._fd = fd
        self.name = name
        self.mode = mode

    def readable(self) -> bool:
        return "+" in self.mode

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return os.readv(self._fd, [buffer])

    def write(self, data: Any) -> int:
        # A buffer that is given up after the end of its process is flushed by nobody.
        return len(data) if self._disk.is_dead else os.write(self._fd, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return os.lseek(self._fd, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self._fd, size)
        return size

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if not self.closed:
            super().close()
            with contextlib.suppress(OSError):
                os.close(self._fd)


def _loaded(path: Path) -> Folder:
    """Return the folder at *path* with all below it, as on stable storage."""
    folder = Folder()
    for entry in path.iterdir():
        node = _loaded(entry) if entry.is_dir() else File(entry.read_bytes())
        folder.change({entry.name: node})
    folder.sync()
    return folder
