"""Both ClickHouses, each started once for all tests, which use tables of their own."""

import pytest

from tests.services.clickhouse_service import Chdb, OldClickhouse


@pytest.fixture(scope="session")
def chdb(tmp_path_factory):
    """The current engine, for tests that leave it running."""
    Chdb.require()
    with Chdb(tmp_path_factory.mktemp("chdb")) as service:
        yield service


@pytest.fixture(scope="session")
def old_clickhouse(tmp_path_factory):
    """Debian's old server, for tests that leave it running."""
    OldClickhouse.require()
    with OldClickhouse(tmp_path_factory.mktemp("clickhouse")) as service:
        yield service
