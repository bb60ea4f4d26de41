"""Small disks of their own for tests that need one full."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.needs import skip_or_fail

TIMEOUT_S = 60
DISK_BYTES = 4 << 20


@contextlib.contextmanager
def small_disk(folder: Path, kind: str) -> Iterator[Path]:
    """Mount a disk of DISK_BYTES for the length of a `with` block: `tmpfs`, or `ext4` in a file."""
    if os.geteuid() != 0:
        skip_or_fail("mounting a small disk needs root")
    disk = folder / "disk"
    disk.mkdir()
    if kind == "ext4":
        if shutil.which("mkfs.ext4") is None:
            skip_or_fail("a small disk with ext4 needs `mkfs.ext4`: run tests/install_disks.sh")
        image = folder / "image"
        image.write_bytes(bytes(DISK_BYTES))
        _run("mkfs.ext4", "-q", "-F", image)
        mount = ["-o", "loop", image]
    else:
        mount = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs"]
    if refusal := _run("mount", *mount, disk):
        skip_or_fail(f"mounting a small disk needs more rights: {refusal}")
    try:
        yield disk
    finally:
        _run("umount", disk)


def fill(disk: Path) -> None:
    """Take every free byte of *disk*, and every free name in its folder that needs one."""
    for size in (1 << 16, 512, 1):
        with (
            contextlib.suppress(OSError),
            (disk / f"filler-{size}").open("ab", buffering=0) as file,
        ):
            while True:
                file.write(bytes(size))


def _run(*command: object) -> str:
    """Run *command* and return what it complained of, empty if it succeeded."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return (done.stderr.strip() or "failed") if done.returncode else ""
