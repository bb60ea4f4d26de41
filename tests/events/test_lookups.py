"""What the pipeline remembers of addresses and user agents: how much, for how long, of whom."""

import tracemalloc
from itertools import pairwise

import orjson
import pytest

from segsrv.events import FLAT, Outcome, Pipeline, Sender, parse
from segsrv.events import lookups as module
from segsrv.events.lookups import Cache, Hits, Places, UserAgentParts
from segsrv.events.sender import Clock
from tests.events.event_runs import know_nothing

ENTRIES = 1_000


def parsed(event):
    return parse(orjson.dumps(event), batch_events_max=100, batch_shared_bytes_max=1_000)


def store(pipeline, event, **sender):
    outcome = pipeline.run(parsed(event), Sender(**{"api_key": "k"} | sender), FLAT)
    return [orjson.loads(line) for line in outcome.lines]


def new_pipeline(*, parse_user_agent=know_nothing, locate=know_nothing, event_bytes_max=10_000):
    return Pipeline(
        event_bytes_max=event_bytes_max, parse_user_agent=parse_user_agent, locate=locate
    )


class TestBounds:
    def test_entries(self):
        """A cache never holds more than its entries, and the latest half of them for certain."""
        cache = Cache(entries_max=10, bytes_max=1 << 20)
        newer = cache.newer
        for number in range(100):
            cache.keep(number, str(number), 1)
            assert len(cache) <= 10
            assert all(cache.get(one) == str(one) for one in range(max(0, number - 4), number))
        assert cache.newer is newer

    def test_bytes(self):
        """Long entries fill a cache before it has its number of them."""
        cache = Cache(entries_max=1_000, bytes_max=100_000)
        for number in range(1_000):
            cache.keep(number, "x", 10_000)
        assert 4 <= len(cache) <= 10

    def test_an_entry_that_is_kept_again(self):
        """What is found in the older half moves to the newer one, and stays while it is asked."""
        agents = UserAgentParts(lambda text: {"ua_family": text}, Hits())
        agents.cache = Cache(entries_max=4, bytes_max=1 << 20)
        looked_up = []
        agents.parse = lambda text: looked_up.append(text) or {"ua_family": text}
        for number in range(20):
            agents.find("often", None)
            agents.find(str(number), None)
        assert looked_up.count("often") == 1

    @pytest.mark.parametrize("limit", ["ENTRIES_MAX", "BYTES_MAX"])
    def test_places(self, monkeypatch, limit):
        """Addresses that clients make up take bounded memory, whatever user agents they have."""
        monkeypatch.setattr(module, limit, {"ENTRIES_MAX": 10, "BYTES_MAX": 10_000}[limit])
        places = Places(lambda source: {"city": source}, Hits())
        for number in range(100):
            places.find(str(number), f"agent {number % 7}")
            assert len(places) <= 20
        assert len(places) >= 5

    @pytest.mark.parametrize(
        ("source", "agent"),
        [("1" * 65, "a"), ("é", "a"), ("1.1.1.1", "a" * 513), ("1.1.1.1", "caf\udce9")],
        ids=["long address", "odd address", "long agent", "odd agent"],
    )
    def test_what_takes_much_memory_is_not_remembered(self, source, agent):
        """What is no address, and no client's user agent, leaves nothing behind."""
        places = Places(know_nothing, Hits())
        assert places.find(source, agent) == places.find(source, agent)
        assert len(places) == 0

    @pytest.mark.parametrize("kind", ["agents", "places"])
    def test_an_entry_takes_about_what_is_counted(self, kind):
        """Of what is found only its own bytes are kept, and not the room in which it was made."""
        agents = UserAgentParts(lambda text: {"ua_family": text}, Hits())
        places = Places(lambda source: {"city": source}, Hits())
        tracemalloc.start()
        try:
            for number in range(ENTRIES):
                if kind == "agents":
                    agents.find(f"agent {number}", None)
                else:
                    places.find(f"1.1.{number}", f"agent {number}")
            taken, _most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(agents.cache) + len(places) == ENTRIES
        assert taken / ENTRIES < 2 * module.ENTRY_BYTES


EVENT = {"context": {"ip": "1.1.1.1"}}


class TestReplacedDatabase:
    def test_answers_are_forgotten(self):
        """After a database is replaced nobody gets the old one's answer."""
        pipeline = new_pipeline(locate=lambda _source: {"city": "old"})
        assert [store(pipeline, EVENT)[0]["location"]["city"] for _ in "12"] == ["old"] * 2
        pipeline.locate = lambda _source: {"city": "new"}
        assert [store(pipeline, EVENT)[0]["location"]["city"] for _ in "12"] == ["new"] * 2

    def test_a_batch_that_has_begun(self):
        """What a batch still finds in the old database is nobody else's answer."""
        pipeline = new_pipeline(locate=lambda _source: {"city": "old"})
        items = [{"context": {"ip": f"1.1.1.{number}"}} for number in range(100)]
        outcome = Outcome()
        steps = pipeline.steps(parsed({"batch": items}), Sender(api_key="k"), FLAT, outcome)
        next(steps)
        pipeline.locate = lambda _source: {"city": "new"}
        assert list(steps)
        cities = [orjson.loads(line)["location"]["city"] for line in outcome.lines]
        assert cities == ["old"] * 100
        assert store(pipeline, items[99])[0]["location"]["city"] == "new"


class TestHits:
    def test_each_look_up_is_counted_once(self):
        """A look-up is a hit here or asks the cache behind, never both."""
        asked = []
        pipeline = new_pipeline(
            parse_user_agent=lambda text: asked.append(text) or {"ua_family": text},
            locate=lambda source: asked.append(source) or {"city": source},
        )
        event = {"context": {"ip": "1.1.1.1", "userAgent": "UA"}}
        store(pipeline, {"batch": [event] * 5})
        store(pipeline, event)
        assert sorted(asked) == ["1.1.1.1", "UA"]
        assert (pipeline.hits.user_agents, pipeline.hits.locations) == (5, 5)

    def test_senders_are_told_apart(self):
        """The same address behind another user agent has a hash of its own, and its location."""
        pipeline = new_pipeline(locate=lambda source: {"city": source})
        event = {"userId": "u", "context": {"ip": "1.1.1.1"}}
        agents = ("a", "b", "a", "c")
        stored = [store(pipeline, event, user_agent=agent)[0] for agent in agents]
        hashes = [one["user"]["hashed_anonymous_id"] for one in stored]
        assert all(one != other for one, other in pairwise(hashes))
        assert hashes[0] == hashes[2]
        assert {one["location"]["city"] for one in stored} == {"1.1.1.1"}


def taken_by_each_step(items, **limits):
    """Return how many items each step takes, and what became of all."""
    pipeline, outcome, payload = new_pipeline(**limits), Outcome(), parsed({"batch": items})
    steps = pipeline.steps(payload, Sender(api_key="k"), FLAT, outcome)
    left = [len(items), *(len(payload.items) for _ in steps)]
    assert left[-1] == 0
    return [before - after for before, after in pairwise(left)], outcome


def test_large_batches_are_done_in_slices():
    """A batch is interrupted every few dozen events, and its items go as they are done."""
    taken, outcome = taken_by_each_step([{"n": number} for number in range(100)])
    assert max(taken) <= 32
    assert [orjson.loads(line)["n"] for line in outcome.lines] == list(range(100))
    assert outcome.types == {"other": 100}


@pytest.mark.parametrize(
    "item",
    [
        {"pad": "x" * 20_000},
        5,
        {"pad": "x" * 60_000},
        {"context": {"userAgent": "x" * 513}},
        {"context": {"ip": "1" * 65}},
    ],
    ids=["large", "no object", "too large", "long user agent", "long address"],
)
def test_what_takes_long_is_a_slice(item):
    """What alone takes as long as dozens of other events, or may, ends a step."""
    taken, outcome = taken_by_each_step([item] * 5, event_bytes_max=50_000)
    assert taken == [1] * 5
    assert len(outcome.lines) + len(outcome.dead_letters) == 5


def test_moments(monkeypatch):
    """Requests of one millisecond share a moment; those of one minute, the offsets of zones."""
    now_ns = 1_000_000
    monkeypatch.setattr("segsrv.events.sender.time.time_ns", lambda: now_ns)
    clock = Clock()
    first = clock.moment()
    now_ns += 999_999
    assert clock.moment() is first
    now_ns += 1
    second = clock.moment()
    assert second is not first
    assert second.now >= first.now
    assert (second.zones is first.zones) == (second.minute == first.minute)
    assert second.offset_of("Asia/Kolkata") == second.zones["Asia/Kolkata"] == 330
    assert second.offset_of("Nowhere/Atlantis") is None
    assert "Nowhere/Atlantis" not in second.zones
