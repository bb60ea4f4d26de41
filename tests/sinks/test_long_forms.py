"""Short forms of the long runs: one sink's outage under load, and all sinks with random kills."""

from tests.needs import skip_or_fail
from tests.services.targets import TARGETS, target_class
from tests.sinks import outage, six

OUTAGE_S = 8
KILLS_S = 25


def test_an_outage_under_load(tmp_path):
    """A sink that was out catches up under load, and the healthy one has everything, once."""
    report = outage.run_on("postgresql", tmp_path, outage_s=OUTAGE_S, rate=1_500)

    assert report.outage_s >= OUTAGE_S
    assert report.backlog_bytes > 0
    assert report.catch_up_events_per_s > 0
    assert report.lines()[-1].endswith(" acknowledged, none lost, 0 twice")


def test_all_sinks_with_random_kills(tmp_path):
    """With sinks and server killed at random, all sinks end with the same events."""
    for kind in TARGETS:
        if (missing := target_class(kind).installed()) is not None:
            skip_or_fail(missing)

    fleet, copies = six.run_all(list(TARGETS), tmp_path, duration_s=KILLS_S, rate=500, seed=8)

    assert fleet.happened.total() > 3
    assert set(fleet.stream.answers) <= {200, 503}
    assert [kind for kind, count in copies.items() if count] in (
        [],
        ["kafka-idempotent"],
        ["webhook"],
        ["kafka-idempotent", "webhook"],
    )
