"""Prometheus' own tool, which knows what a page of metrics and a file of rules should look like."""

import shutil
import subprocess

from tests.needs import skip_or_fail


def promtool(*arguments, page=b"") -> tuple[int, str]:
    """Run promtool on *page*; return its exit status and what it complains of."""
    if shutil.which("promtool") is None:
        skip_or_fail("promtool is missing: bash tests/ops/install_promtool.sh")
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=page, capture_output=True, check=False
    )
    return done.returncode, done.stderr.decode()
