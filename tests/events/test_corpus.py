"""The corpus through the event path: every stored line is the one that the oracle works out."""

import json
from urllib.parse import parse_qsl

import maxminddb
import orjson
import pytest

from segsrv.events import Pipeline, Sender, parse
from segsrv.events.geo import Geo
from segsrv.events.privacy import POLICIES
from segsrv.events.user_agents import UserAgents
from segsrv.http.paths import ingest_paths
from tests.events.corpus import DATABASES, corpus
from tests.events.event_runs import NOW, SHARED_BYTES_MAX
from tests.events.oracle import comparable, expected_lines
from tests.events.rule_table import COMPAT_RULES, FLAT_RULES, applies
from tests.mmdb import write_mmdb

POSTS = list(corpus())


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    readers = [
        maxminddb.open_database(write_mmdb(folder / f"{name}.mmdb", networks, name))
        for name, networks in DATABASES.items()
    ]
    geo = Geo(readers, entries_max=1_000)
    parse_user_agent = UserAgents(entries_max=1_000).parse
    yield Pipeline(event_bytes_max=100_000, parse_user_agent=parse_user_agent, locate=geo.locate)
    for reader in readers:
        reader.close()


def run(post, pipeline, **options):
    """Return what becomes of a request behind the HTTP layer."""
    target = ingest_paths()["/api.{random}" if post.path.startswith("/api.") else post.path]
    payload = parse(
        json.dumps(post.body).encode(),
        batch_events_max=1_000,
        batch_shared_bytes_max=SHARED_BYTES_MAX,
        takes_array=target.takes_array,
    )
    policies = {name: word for name, word in parse_qsl(post.query) if word in POLICIES}
    sender = Sender(
        api_key="key",
        address=post.client,
        user_agent=post.user_agent.decode("utf-8", "surrogateescape"),
        event_type=target.event_type,
        is_client=target.is_client,
        **policies,
        **options,
    )
    return pipeline.run(payload, sender, target.output, now=NOW)


@pytest.mark.parametrize("post", POSTS, ids=[post.name for post in POSTS])
def test_every_line_is_the_expected_one(post, pipeline):
    """A request's stored lines are what the rules, taken literally, make of its events."""
    outcome = run(post, pipeline)
    stored = [comparable(orjson.loads(line)) for line in outcome.lines]
    assert stored == [comparable(event) for event in expected_lines(post, "key")]
    assert len(outcome.lines) + len(outcome.dead_letters) == len(post.events)


@pytest.mark.parametrize("path", sorted({post.path for post in POSTS}))
def test_every_corrected_time_is_the_expected_one(path, pipeline):
    """Where times are corrected, `timestamp` and `originalTimestamp` are what the rule gives."""
    for post in (post for post in POSTS if post.path == path):
        outcome = run(post, pipeline, correct_timestamps=True)
        stored = [comparable(orjson.loads(line)) for line in outcome.lines]
        expected = expected_lines(post, "key", corrected_at=NOW)
        assert stored == [comparable(event) for event in expected], post.name


def test_the_corpus_meets_every_rule():
    """Some hundred different events give every rule of either table something to do."""
    events = [event for post in POSTS for event in post.events if isinstance(event, dict)]
    assert len({json.dumps(event, sort_keys=True) for event in events}) > 250
    for rule in {*FLAT_RULES, *COMPAT_RULES}:
        assert any(applies(rule, event) for event in events), rule
