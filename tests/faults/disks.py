"""Disks that tests can fill."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.needs import skip_or_fail

MOUNT_TIMEOUT_S = 30


def mount(target: Path, *arguments: str) -> None:
    if os.geteuid() != 0:
        skip_or_fail("mounting a small disk needs root")
    if shutil.which("mount") is None:
        skip_or_fail("mounting a small disk needs the command `mount`")
    done = subprocess.run(
        ["mount", *arguments, target],
        capture_output=True,
        text=True,
        timeout=MOUNT_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        skip_or_fail(f"mounting a small disk needs more rights: {done.stderr.strip()}")


def unmount(target: Path) -> None:
    subprocess.run(["umount", target], check=True, timeout=MOUNT_TIMEOUT_S)
