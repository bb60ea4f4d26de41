"""A Kafka broker for the tests of its sink, started when the first of them asks."""

import pytest

from tests.services.kafka_service import KafkaService


@pytest.fixture(scope="session")
def kafka(tmp_path_factory) -> KafkaService:
    """One broker for all tests that leave it as it is; each has topics of its own."""
    KafkaService.require()
    with KafkaService(tmp_path_factory.mktemp("kafka")) as service:
        yield service


@pytest.fixture
def own_kafka(tmp_path) -> KafkaService:
    """One broker for a test that breaks it."""
    KafkaService.require()
    with KafkaService(tmp_path / "kafka") as service:
        yield service
