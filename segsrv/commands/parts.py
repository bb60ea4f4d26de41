"""What several commands begin with: their flags, and the settings."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence

from segsrv.delivery.journals import journal_dir
from segsrv.errors import DataDirUnusable
from segsrv.settings import Settings, sources
from segsrv.settings.key import Key
from segsrv.write_keys import with_file_keys, with_kept_key

Command = Callable[[argparse.Namespace], int]


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Give *parser* `--config` and `--data-dir`; other settings come from file and environment."""
    sources.add_flags(parser, names=("data_dir",))


def load(flags: argparse.Namespace) -> Settings:
    """Return the settings of a server whose data directory is there.

    Raises:
        SettingsError: They are wrong, as `serve` would find them.
        DataDirUnusable: There is no such folder.

    """
    settings = sources.load(vars(flags), os.environ)
    if not settings.data_dir.is_dir():
        raise DataDirUnusable(f"data_dir={settings.data_dir}: there is no such folder")
    return with_file_keys(settings)


def guarded(run: Command) -> Command:
    """Return *run* with what a disk refuses as an error of one line that names the file.

    It ends quietly when who reads the output has seen enough, as `head` does.
    """

    @functools.wraps(run)
    def guard(flags: argparse.Namespace) -> int:
        try:
            status = run(flags)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered must not fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise DataDirUnusable(f"{where}{error.strerror or error}") from error
        return status

    return guard


def check_user(settings: Settings) -> None:
    """Make sure that what a sink writes is the server's, too.

    Raises:
        DataDirUnusable: The server is another user. A folder that this one makes beside the
            server's events could be closed to it.

    """
    folder, user = journal_dir(settings), os.geteuid()
    if folder.is_dir() and (owner := folder.stat().st_uid) != user:
        raise DataDirUnusable(
            f"{folder}: belongs to user {owner}, and this is {user}; run it as the server's user"
        )


def known_keys(settings: Settings) -> Sequence[Key]:
    """Return all keys; without that of the first start where it may not be read."""
    with contextlib.suppress(DataDirUnusable):
        settings = with_kept_key(settings)
    return settings.all_keys()
