"""Objects in Parquet, for the S3 sink."""

from __future__ import annotations

from collections.abc import Sequence

from segsrv.journal.facts import Facts
from segsrv.sinks.base import Lines
from segsrv.sinks.parquet import NotConverted, encode
from segsrv.sinks.s3_objects import PARQUET_SUFFIX, Form, NotPacked


def _packed(parts: Sequence[Lines], facts: Sequence[Facts]) -> bytes:
    try:
        return encode(parts, facts)
    except NotConverted as error:
        raise NotPacked(str(error)) from error


PARQUET = Form(PARQUET_SUFFIX, "application/vnd.apache.parquet", _packed)
