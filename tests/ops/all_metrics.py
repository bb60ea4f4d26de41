"""Every metric that a server can have, from one that has all turned on."""

from segsrv.delivery.station import Station
from segsrv.events.counters import OK, Counters
from segsrv.events.formats import FLAT
from segsrv.events.lookups import Hits
from segsrv.events.outcome import Outcome
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.ops.metrics import Metrics, age_family
from segsrv.ops.peers import Peers
from segsrv.settings import SinkTable
from tests.delivery.test_station import make_settings, running, submit
from tests.waiting import until


async def all_metrics(tmp_path):
    """Return the families of a worker that delivers, and a page that has them of two workers."""
    sink = SinkTable(name="a", url=f"file:{tmp_path}/a", on_full="set_aside", lag_bytes_max=1 << 20)
    transform = "docs.transform_examples.rename:rename"
    settings = make_settings(tmp_path, sinks=(sink,), dedup_window_s=60, transform=transform)
    async with running(settings) as station:
        (shipper,) = station.delivery.shippers
        await until(lambda: shipper.judge.index is not None)
        await submit(station, 1)
        await until(lambda: shipper.stats.events == 1)
        progress = station.delivery.progress["a"]
        await until(lambda: progress.eta_s is not None)
        metrics = _metrics(tmp_path, station)
        own = await metrics.families()
        page = metrics.render(own, {"1": {"families": own, "age_s": 0.5}})
        return [*own, age_family(0.0)], page


def _metrics(tmp_path, station: Station) -> Metrics:
    counters = Counters()
    counters.answers[OK, 200, "batch", "web"] += 1
    counters.request_seconds.observe(0.002)
    outcome = Outcome()
    outcome.kinds, outcome.reasons = ["track"], {"event_too_large": 1}
    counters.count(FLAT, "web", outcome)
    databases = Databases((), entries_max=1, copy_dir=None)
    user_agents = UserAgents(entries_max=1, bot_words=())
    peers = Peers(tmp_path / "peers", name="0", workers=1)
    return Metrics(counters, station, user_agents, databases, peers, Hits())


def full_name(name: str, kind: str) -> str:
    """Return what a metric is called in the page and in queries."""
    return f"{name}_total" if kind == "counter" else name
