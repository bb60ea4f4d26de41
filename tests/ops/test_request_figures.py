"""How long requests take, and what each key brings, as `/metrics` tells it."""

import re

import pytest

from segsrv.errors import JournalFull
from segsrv.events.counters import Counters
from segsrv.events.formats import FLAT
from segsrv.events.outcome import Outcome
from segsrv.histogram import Histogram
from segsrv.ops.family import histogram
from segsrv.ops.metrics import KeyLabels, event_families
from segsrv.settings.key import derived_key_id
from tests.http.test_ingest_alone import Server, batch
from tests.site import KEY, new_id


def outcome_of(*kinds):
    outcome = Outcome()
    outcome.kinds = list(kinds)
    return outcome


def labelled(families, name, label):
    (rows,) = [rows for found, _kind, _text, rows in families if found == name]
    return {labels[label]: value for _suffix, labels, value in rows}


class TestHistogram:
    @pytest.mark.parametrize(
        ("duration_s", "index"),
        [(0.0, 0), (0.01, 0), (0.011, 1), (0.1, 1), (5.0, 2)],
        ids=["none", "at_the_first", "above_it", "at_the_last", "above_all"],
    )
    def test_a_duration_counts_at_its_bound(self, duration_s, index):
        """What is exactly a bound counts there, and what is above all has a place of its own."""
        found = Histogram((0.01, 0.1))
        found.observe(duration_s)

        assert [int(place == index) for place in range(3)] == found.counts
        assert found.sum_s == duration_s

    def test_counts_are_told_up_to_each_bound(self):
        """Prometheus wants for each bound how many were no longer, and all of them at the end."""
        found = Histogram((0.01, 0.1))
        for duration_s in (0.005, 0.05, 0.05, 7.0):
            found.observe(duration_s)

        name, kind, _text, rows = histogram("work_seconds", "Time of work.", found)
        assert (name, kind) == ("segsrv_work_seconds", "histogram")
        assert rows == [
            ("_bucket", {"le": "0.01"}, 1.0),
            ("_bucket", {"le": "0.1"}, 3.0),
            ("_bucket", {"le": "+Inf"}, 4.0),
            ("_count", {}, 4.0),
            ("_sum", {}, pytest.approx(7.105)),
        ]


class TestRequests:
    def test_a_request_is_measured_when_it_is_answered(self):
        """Its time ends with the answer, which waits for the commit, and refusals count too."""
        server = Server()
        server.post(batch(2))
        assert sum(server.counters.request_seconds.counts) == 0

        server.commit.end()
        assert sum(server.counters.request_seconds.counts) == 1
        assert server.counters.request_seconds.sum_s > 0
        server.post(batch(1))
        server.commit.end(JournalFull("full"))
        server.post(b"{")
        assert sum(server.counters.request_seconds.counts) == 3

    def test_requests_of_every_front_are_in_the_page(self, new_site):
        """Each front and the mounted application tell times of requests and events by key."""
        site = new_site()
        site.post({"batch": [{"type": "track", "event": "a", "messageId": new_id()}] * 2})
        site.post({"type": "page", "messageId": new_id()}, path="/v1/page")
        # Its head is enough to refuse it.
        assert site.post({"type": "page"}, key="nobody").status == 401

        assert site.metric("segsrv_request_seconds_count") == 2
        assert site.metric("segsrv_request_seconds_bucket", le="+Inf") == 2
        assert site.metric("segsrv_key_events_total", key=derived_key_id(KEY)) == 3
        assert site.metric("segsrv_events_total") == 3

    def test_statuses_are_there_before_their_first_answer(self, start_server):
        """What first appears with a count has not grown for who asks how much it did."""
        text = start_server().get("/metrics").body.decode()
        told = re.findall(r'^segsrv_requests_total{status="(\d+)".*} 0\.0$', text, re.MULTILINE)
        assert sorted(told) == ["200", "400", "401", "429", "500", "503"]


class TestKeys:
    def test_events_are_told_by_key_and_by_type(self):
        """The two metrics have the same events, added up in two ways."""
        counters = Counters()
        counters.count(FLAT, "web", outcome_of("track"))
        counters.count(FLAT, "web", outcome_of("track", "page"))
        counters.count(FLAT, "app", outcome_of("track"))

        families = list(event_families(counters, KeyLabels()))
        assert labelled(families, "segsrv_key_events", "key") == {"web": 3, "app": 1}
        assert labelled(families, "segsrv_events", "type") == {"track": 3, "page": 1}

    def test_only_so_many_keys_are_labels(self):
        """More keys than there is room for are told together, and those told before stay."""
        labels = KeyLabels(keys_max=2)
        assert [labels.of(key) for key in ("a", "b", "c", "d", "a")] == [
            *("a", "b", "other", "other", "a")
        ]
