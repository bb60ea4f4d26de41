"""The checksum of the journal is zlib's, whoever computes it."""

import importlib
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segsrv.journal import crc


@given(st.binary(max_size=10_000), st.integers(0, (1 << 32) - 1))
def test_it_is_the_one_of_zlib(data, before):
    """Journals of any release and machine are read by any other."""
    assert crc.crc32(data, before) == zlib.crc32(data, before)
    assert crc.crc32(memoryview(data)) == zlib.crc32(data)


def test_a_machine_without_the_fast_one(monkeypatch):
    """Where it can't be imported zlib takes its place."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "isal", None)
        patch.setitem(sys.modules, "isal.isal_zlib", None)
        assert importlib.reload(crc).crc32 is zlib.crc32
    assert importlib.reload(crc).crc32(b"x") == zlib.crc32(b"x")


def test_the_fast_one_is_used():
    """Where it is installed it is taken."""
    isal_zlib = pytest.importorskip("isal.isal_zlib")
    assert crc.crc32 is isal_zlib.crc32
