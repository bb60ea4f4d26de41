"""docs/delivery.md names all that /ready tells of each sink."""

from segsrv.ops.sink_metrics import sink_families
from segsrv.settings import SinkTable
from tests.delivery.test_station import make_settings, running
from tests.server_process import REPOSITORY
from tests.waiting import until

DOCS = (REPOSITORY / "docs" / "delivery.md").read_text()
WATCH = DOCS.partition("\n## What to watch\n")[2]


async def test_every_field_is_documented(tmp_path):
    """With all that a sink can have turned on; nothing else is documented."""
    sink = SinkTable(name="a", url=f"file:{tmp_path}/a", on_full="set_aside", lag_bytes_max=1 << 20)
    settings = make_settings(tmp_path, sinks=(sink,), dedup_window_s=60, transform="json:loads")
    async with running(settings) as station:
        (shipper,) = station.shippers
        await until(lambda: shipper.judge.index is not None)
        families = list(sink_families(station.delivery))
        (reported,) = station.delivery.report()

    fields = WATCH.partition("has an entry for each sink:")[2].partition(". `lag_events` is")[0]
    assert {name for name in reported if f"`{name}`" not in fields} == {"name"}
    limits = {name: rows for name, _kind, _text, rows in families}["segsrv_sink_lag_max_bytes"]
    assert limits == [("", {"sink": "a"}, float(1 << 20))]
    assert reported["lag_bytes_max"] == 1 << 20
