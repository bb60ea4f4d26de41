"""A running PostgreSQL for the whole session, and a database of its own for each test."""

import itertools
from dataclasses import dataclass

import pytest

from tests.services.postgresql_service import PostgresqlService


@dataclass(frozen=True)
class Database:
    """An empty database that belongs to the role `plain`."""

    service: PostgresqlService
    name: str

    @property
    def url(self) -> str:
        return self.url_of()

    def url_of(self, user: str = "plain", *, port: int = 0) -> str:
        return self.service.url_of(user, database=self.name, port=port)

    def sql(self, statement: str, *, user: str = "plain") -> str:
        """Return what psql prints, rows as lines and columns separated by |."""
        return self.service.sql(statement, user=user, database=self.name)

    def count(self, what: str = "events") -> int:
        return int(self.sql(f"SELECT count(*) FROM {what}"))


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """Tests that break a server start one of their own."""
    PostgresqlService.require()
    with PostgresqlService(tmp_path_factory.mktemp("postgresql")) as service:
        yield service


@pytest.fixture(scope="session")
def _database_numbers():
    return itertools.count(1)


@pytest.fixture
def database(postgresql, _database_numbers):
    name = f"test_{next(_database_numbers)}"
    postgresql.make_database(name)
    return Database(postgresql, name)
