"""Cursor files: replaced as a whole, and clear about what they can't be."""

import os

import pytest

from segsrv.journal import cursor
from segsrv.journal.cursor import Cursor, CursorUnreadable


class TestCursorFile:
    def test_round_trip(self, tmp_path):
        """What was saved is loaded, its placement included; no file is no cursor."""
        path = tmp_path / "state" / "w0-file.json"
        assert cursor.load(path) is None

        cursor.save(path, Cursor(10, 20, {"file": "a", "offset": 3}))

        assert cursor.load(path) == Cursor(10, 20, {"file": "a", "offset": 3})

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_save_that_fails_keeps_the_old_one(self, tmp_path, monkeypatch, step):
        """A crash or a full disk at any step of a save leaves the cursor that was there."""
        path = tmp_path / "w0-file.json"
        cursor.save(path, Cursor(1, 2))

        def refuse(*_arguments: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, refuse)
            with pytest.raises(OSError, match="No space"):
                cursor.save(path, Cursor(3, 4))
            assert cursor.load(path) == Cursor(1, 2)
        cursor.save(path, Cursor(5, 6))

        assert cursor.load(path) == Cursor(5, 6)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(b"", id="empty"),
            pytest.param(bytes(40), id="zeros"),
            pytest.param(b'{"start": 1, "en', id="cut"),
            pytest.param(b"[]", id="no_object"),
            pytest.param(b"null", id="null"),
            pytest.param(b'{"start": 1}', id="half"),
            pytest.param(b'{"start": 2, "end": 1}', id="backwards"),
            pytest.param(b'{"start": -1, "end": 1}', id="negative"),
            pytest.param(b'{"start": "1", "end": "2"}', id="text"),
            pytest.param(b'{"start": 1, "end": 2, "x": 3}', id="unknown_field"),
            pytest.param(b"\xff\xfe", id="no_utf8"),
        ],
    )
    def test_something_else_is_refused_by_name(self, tmp_path, text):
        """A file that is no cursor is never taken for one; the error names it and the way out."""
        path = tmp_path / "w0-file.json"
        path.write_bytes(text)

        with pytest.raises(CursorUnreadable, match=r"w0-file\.json is not a cursor .*move it away"):
            cursor.load(path)
