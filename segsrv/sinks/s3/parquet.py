"""Objects in Parquet, for the S3 sink; imported only where they are asked for."""

from __future__ import annotations

from segsrv.sinks.parquet import encode
from segsrv.sinks.s3.objects import PARQUET_SUFFIX, Form

PARQUET = Form(PARQUET_SUFFIX, "application/vnd.apache.parquet", encode)
