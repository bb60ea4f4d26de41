"""Makes calls to the disk hang in a running process, as a disk does that answers no more."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.needs import skip_or_fail
from tests.waiting import wait_until

COMMIT = "pwritev2,fdatasync"
"""What a commit waits for, whichever way the kernel has."""
DELAY_US = 600_000_000
END_TIMEOUT_S = 3


@contextlib.contextmanager
def hung(pid: int, call: str, log: Path, *, paths: Sequence[Path] = ()) -> Iterator[None]:
    """Let every *call* of process *pid* hang for the length of the block; then it goes on.

    *call* may be several, with commas. With *paths* only calls for these files do. *log* is a file
    for what strace says.
    """
    if shutil.which("strace") is None:
        skip_or_fail("strace is not installed: run tests/faults/install_strace.sh")
    with log.open("wb") as output:
        tracer = subprocess.Popen(
            [
                *("strace", "-f", "-p", str(pid), "-e", f"trace={call}"),
                *("-e", f"inject={call}:delay_enter={DELAY_US}"),
                *(f"--trace-path={path}" for path in paths),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: tracer.poll() is not None or "attached" in log.read_text())
        if tracer.poll() is not None:
            skip_or_fail(f"strace can't look into a process here: {log.read_text().strip()}")
        yield
    finally:
        tracer.terminate()
        try:
            tracer.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # It waits for a call of a process that is gone.
            tracer.kill()
            tracer.wait()
