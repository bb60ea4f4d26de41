"""A running S3 server for the whole session, with a prefix for each test."""

import itertools

import pytest

from tests.services.s3_service import SeaweedFs

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_service(tmp_path_factory) -> SeaweedFs:
    SeaweedFs.require()
    with SeaweedFs(tmp_path_factory.mktemp("s3")) as service:
        yield service


@pytest.fixture
def s3_prefix() -> str:
    """Return a prefix that no other test of this session uses."""
    return f"test-{next(_numbers)}"
