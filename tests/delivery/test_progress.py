"""A sink that catches up is seen to: in the log, in /ready and in the metrics."""

import logging

import pytest

from segsrv.delivery import attempts, progress
from segsrv.delivery.progress import Progress
from segsrv.ops.sink_metrics import sink_families
from segsrv.settings import SinkTable
from tests.delivery.test_station import make_settings, running, submit
from tests.waiting import until

BATCH = 1_000


def run(seen: Progress, *lags: int, start_s: int = 0, rate: int = 100, is_working: bool = True):
    """Let a second pass for each of *lags*, in which *rate* events were delivered."""
    for second, lag_bytes in enumerate(lags, start_s):
        events = second * rate
        seen.note(float(second), events=events, lag_bytes=lag_bytes, is_working=is_working)


@pytest.fixture
def seen(caplog):
    caplog.set_level(logging.INFO, "segsrv")
    return Progress("warehouse", batch_bytes_max=BATCH)


class TestFigures:
    def test_speed_and_time_left(self, seen):
        """From what was delivered, and from how much the lag shrank, new events counted."""
        run(seen, *range(100_000, 90_000, -1_000), rate=250)

        assert seen.events_per_s == 250
        assert seen.eta_s == 91

    def test_a_lag_that_grows_never_ends(self, seen):
        """However many events are delivered."""
        run(seen, *range(100_000, 200_000, 10_000))

        assert seen.events_per_s == 100
        assert seen.eta_s is None

    def test_how_a_backlog_came_about_does_not_count(self, seen):
        """After a burst or an outage, the time left is known before that is half a minute ago."""
        run(seen, 0, 0, *range(20_000, 100_001, 20_000))
        run(seen, *range(99_000, 89_000, -1_000), start_s=7)
        assert seen.eta_s == 90

    def test_a_lag_that_shrank_just_now_may_grow(self, seen):
        """A sink takes its batches one by one, and the lag grows between."""
        run(seen, *[lag for n in range(10) for lag in (50_000 + n * 5_000, 49_000 + n * 5_000)])
        assert seen.eta_s is None

    def test_what_was_long_ago_does_not_count(self, seen):
        """The figures are those of the last half minute."""
        run(seen, *[100_000] * 60, rate=0)
        run(seen, *range(100_000, 65_000, -1_000), start_s=60, rate=0)
        assert seen.eta_s == 66

    def test_less_than_a_batch_is_nothing(self, seen):
        """And of a sink that takes nothing it is not known, nor before anything was seen."""
        assert (seen.eta_s, seen.events_per_s) == (None, 0)
        run(seen, 10)
        assert (seen.eta_s, seen.events_per_s) == (0, 0)
        run(seen, 10, start_s=1, is_working=False)
        assert seen.eta_s is None


class TestLog:
    def test_it_is_said_now_and_then_until_it_is_over(self, seen, caplog):
        """After ten seconds, every half minute, and once when less than a batch is left."""
        run(seen, *range(80_000, 0, -1_000), 500, 0)

        first, second, third, last = (record.getMessage() for record in caplog.records)
        assert first == ("sink: behind sink=warehouse events_per_s=100 lag_bytes=70000 eta_s=70")
        assert "lag_bytes=40000 eta_s=40" in second
        assert "lag_bytes=10000 eta_s=10" in third
        assert last == "sink: caught up sink=warehouse after_s=79"

    def test_a_burst_is_not_worth_a_line(self, seen, caplog):
        """Of a few seconds, or of less than a batch for hours."""
        run(seen, *[50_000] * 9, 0, *[50_000] * 9, *[BATCH] * 200)
        assert not caplog.records

    def test_a_sink_that_fails_has_no_speed_to_tell(self, seen, caplog):
        """Why it fails is in the log already; when it works again there is a line."""
        run(seen, *[50_000] * 100, is_working=False)
        assert not caplog.records
        run(seen, 50_000, start_s=100, rate=0)
        (record,) = caplog.records
        assert record.getMessage().endswith("lag_bytes=50000 eta_s=unknown")


async def test_delivery_tells_it(tmp_path, monkeypatch, caplog):
    """While a sink that was down catches up, /ready and the metrics have its speed."""
    caplog.set_level(logging.INFO, "segsrv")
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.005)
    monkeypatch.setattr(progress, "SAMPLE_INTERVAL_S", 0.0)
    monkeypatch.setattr(progress, "BEHIND_S", 0.0)
    (tmp_path / "out").write_text("in the way")
    sink = SinkTable(name="a", url=f"file:{tmp_path}/out", batch_bytes_max=64 << 10)
    async with running(make_settings(tmp_path, sinks=(sink,))) as station:
        (shipper,) = station.shippers
        await until(lambda: shipper.is_failing)
        for number in range(200):
            await submit(station, number)
        (report,) = station.delivery.report()
        assert report["eta_s"] is None
        seen = station.delivery.progress["a"]
        await until(lambda: seen._behind_since_s is not None)
        (tmp_path / "out").unlink()
        await until(lambda: seen.events_per_s > 0 and seen.eta_s == 0)

        (report,) = station.delivery.report()
        assert report["events_per_s"] > 0
        assert report["eta_s"] == 0
        families = {name: rows for name, _kind, _text, rows in sink_families(station.delivery)}
        assert families["segsrv_sink_eta_seconds"] == [("", {"sink": "a"}, 0.0)]
        assert families["segsrv_sink_events_per_second"][0][2] > 0
