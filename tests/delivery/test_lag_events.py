"""How many events a sink lacks, as it is estimated from what was read."""

import pytest

from segsrv.delivery import attempts
from segsrv.delivery.cursor import CursorFile
from segsrv.delivery.standing import EVENT_BYTES, Standing
from segsrv.settings import SinkTable
from tests.delivery.test_station import make_settings, running, submit
from tests.waiting import until

EVENTS = 40


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.005)


async def test_a_sink_that_is_down_lacks_about_what_came(tmp_path):
    """Also after a start at which it is still down, and nothing once it has all."""
    (tmp_path / "out").write_text("in the way")
    settings = make_settings(tmp_path, sinks=(SinkTable(name="a", url=f"file:{tmp_path}/out"),))
    async with running(settings) as station:
        (shipper,) = station.delivery.shippers
        await until(lambda: shipper.is_failing)
        assert station.delivery.report()[0]["lag_events"] == 0
        await submit(station, *range(EVENTS))
    async with running(settings) as station:
        (shipper,) = station.delivery.shippers
        await until(lambda: shipper.is_failing)
        assert station.delivery.report()[0]["lag_events"] == pytest.approx(EVENTS, abs=1)

        (tmp_path / "out").unlink()
        await until(lambda: shipper.stats.events == EVENTS)
        await until(lambda: shipper.lag_bytes == 0)
        assert station.delivery.report()[0]["lag_events"] == 0


class Source:
    """A journal of which only the size is asked for."""

    name, id, first = "w0", "1", 0

    def __init__(self, end):
        self.end = end


@pytest.mark.parametrize(
    ("read", "lag_bytes", "expected"),
    [
        ([], 0, 0),
        ([], 10 * EVENT_BYTES, 10),
        ([500.0], 10_000, 20),
        ([500.0, 0.0], 10_000, 20),
        ([500.0, 2_500.0], 10_000, 10),
        ([5_000.0], 100, 1),
    ],
    ids=["none", "nothing_read", "one_size", "an_empty_batch", "two_sizes", "a_part_of_one"],
)
def test_bytes_are_told_as_events(tmp_path, read, lag_bytes, expected):
    """By the size of the events read last; what is lacking is never told as none."""
    standing = Standing("a", [Source(lag_bytes)], CursorFile(tmp_path / "a"), lambda: None)
    for event_bytes in read:
        standing.note_size(event_bytes)
    assert standing.lag_events == expected
