"""Small disks of their own for tests that need one full."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.disks import mount, unmount
from tests.needs import skip_or_fail

DISK_BYTES = 4 << 20


@contextlib.contextmanager
def small_disk(folder: Path, kind: str) -> Iterator[Path]:
    """Mount a disk of DISK_BYTES for the length of a `with` block: `tmpfs`, or `ext4` in a file."""
    disk = folder / "disk"
    disk.mkdir()
    if kind == "ext4":
        if shutil.which("mkfs.ext4") is None:
            skip_or_fail("a small disk with ext4 needs `mkfs.ext4`: run tests/install_disks.sh")
        image = folder / "image"
        image.write_bytes(bytes(DISK_BYTES))
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        mount(disk, "-o", "loop", str(image))
    else:
        mount(disk, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs")
    try:
        yield disk
    finally:
        unmount(disk)


def fill(disk: Path) -> None:
    """Take every free byte of *disk*, and every free name in its folder that needs one."""
    for size in (1 << 16, 512, 1):
        with (
            contextlib.suppress(OSError),
            (disk / f"filler-{size}").open("ab", buffering=0) as file,
        ):
            while True:
                file.write(bytes(size))
