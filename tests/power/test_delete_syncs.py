"""No sync can be deleted unseen: the script that tries it finds them all, and none survives."""

import os
from pathlib import Path

import pytest

from tests.power.delete_syncs import TESTS, find, sites, survivors

IS_CI = os.environ.get("CI") == "true"
SAMPLE = 12
"""Outside of CI every twelfth is deleted; `python -m tests.power.delete_syncs` takes all."""

DELETED = {
    "os.fsync(fd)": "None",
    "await sync_dir(path)": "None",
    "os.replace(a, b)": "None",
    "path.replace(target)": "None",
    "self.path.rename(self.other())": "None",
    "replace_file(path, b'')": "None",
    "run(os.fdatasync, fd)": "run((lambda *_arguments, **_options: None), fd)",
    "os.pwritev(fd, parts, 0, os.RWF_DSYNC)": "os.pwritev(fd, parts, 0, 0)",
    "SegmentLog(is_synced=durability == 'fsync')": "SegmentLog(is_synced=False)",
}
LEFT = [
    "text.replace(old, new)",
    "dataclasses.replace(segment, end=1)",
    "now.replace(minute=0)",
    "replace_file(path, b'', is_synced=False)",
    "peers.publish(report)",
    "SegmentLog(is_synced=is_synced)",
]


class TestSites:
    @pytest.mark.parametrize(("text", "expected"), DELETED.items())
    def test_what_is_deleted(self, text, expected):
        """Calls, functions that are handed on and flags of writes, each with what replaces it."""
        text, expected = (f"async def f():\n    {line}\n" for line in (text, expected))
        (site,) = sites(Path("module.py"), text)
        assert text[: site.start] + site.instead + text[site.end :] == expected

    @pytest.mark.parametrize("text", LEFT)
    def test_what_is_left(self, text):
        """Texts and dates are replaced too, and some files need no sync."""
        assert not list(sites(Path("module.py"), text))

    def test_the_source_has_some(self):
        """Neither the rooms nor the names of the calls have changed behind the script's back."""
        modules = {str(site.module) for site in find([])}
        assert {
            "segsrv/files.py",
            "segsrv/journal/slots.py",
            "segsrv/sinks/file/sink.py",
        } <= modules


def test_none_survives():
    """Whichever is deleted, a test fails."""
    found = find([])
    chosen = found if IS_CI else found[::SAMPLE]
    left = survivors(chosen, list(TESTS), jobs=os.cpu_count() or 1, checks_whole=IS_CI)
    assert not left, "\n".join(map(str, left))
