"""Runs code that uses a segment log in a process of its own."""

import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

from tests.journal.segment_logs import opened
from tests.server_process import REPOSITORY

CHILD_TIMEOUT_S = 30


def run_child(code: str, directory: Path, *, is_locked: bool = False, exit_code: int = 0) -> str:
    """Run *code* in a process of its own, and return what it printed when it ended as expected."""
    prelude = """
        import os, sys
        from pathlib import Path
        from segsrv.journal.log import SegmentLog
        from tests.journal.segment_logs import drain, journal_files, payload

        def open_log():
            return SegmentLog(
                Path(sys.argv[1]), segment_bytes_max=1 << 20, disk_free_bytes_min=0, is_synced=True
            )
    """
    with opened(directory) if is_locked else nullcontext():
        child = subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(prelude) + textwrap.dedent(code),
                str(directory),
            ],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    assert child.returncode == exit_code, child.stderr
    return child.stdout
