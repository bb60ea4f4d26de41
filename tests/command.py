"""The command line, run to its end as its users run it."""

import os
import subprocess
import sys


def segsrv(*arguments, cwd, **variables):
    """Run `segsrv` with no settings but those given; return what it printed and its status."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SEGSRV_")}
    return subprocess.run(
        [sys.executable, "-m", "segsrv", *arguments],
        cwd=cwd,
        env=environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
