"""Runs the services that sinks deliver to, for a developer, until Ctrl-C.

    bash tests/services/install.sh
    python -m tests.services.run kafka-transactional postgresql

It prints a configuration for segsrv with a `[[sinks]]` table for each, and the variables that hold
their secrets.
"""

import argparse
import contextlib
import functools
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.services.targets import TARGETS, start, target_class

say = functools.partial(print, flush=True)
NAMES = [name for name in TARGETS if name != "file"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all if none; {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    for name in names:
        if name not in NAMES:
            parser.error(f"{name} is unknown, expected {', '.join(NAMES)}")
        if (missing := target_class(name).installed()) is not None:
            parser.error(missing)
    # A shell's `kill` ends the services as Ctrl-C does, which a script's background would ignore.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segsrv-services-")))
        for name in names:
            target = target_class(name)(folder / name)
            service = target.service
            assert service is not None, f"{name} is a service"
            stack.callback(service.close)
            start(target)
            say(target.table(service.port))
            for variable, value in target.environ().items():
                say(f"# export {variable}={shlex.quote(value)}")
        say(f"\n# running, with data and logs in {folder}; Ctrl-C ends all")
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
