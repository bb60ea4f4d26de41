"""docs/metrics.md has every metric with its type and labels, and no other."""

import asyncio
import re
from typing import get_args

from segsrv.events.counters import PathKind
from tests.ops.all_metrics import all_metrics, full_name
from tests.ops.promtool import promtool
from tests.server_process import REPOSITORY
from tests.site import new_id
from tests.waiting import wait_until

PAGE = (REPOSITORY / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| (`.+?) \| (counter|gauge|histogram) \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def names_in(cell):
    return re.findall(r"`(\w+)`", cell)


async def test_the_page_has_every_metric_as_it_is(tmp_path):
    """Names, types and labels are those of a server that has all turned on, both ways."""
    families, _page = await all_metrics(tmp_path)
    found = {
        full_name(name, kind): (
            kind,
            {label for _suffix, labels, _value in rows for label in labels},
        )
        for name, kind, _text, rows in families
    }
    documented = {
        name: (kind, set(names_in(labels)))
        for names, kind, labels, _what in ROW.findall(PAGE)
        for name in names_in(names)
    }
    for kind, labels in found.values():
        if kind == "histogram":
            labels.discard("le")

    assert documented == found


async def test_promtool_finds_nothing_wrong(tmp_path):
    """The page parses, and its names, units and help texts are as Prometheus wants them."""
    _families, page = await all_metrics(tmp_path)
    assert await asyncio.to_thread(promtool, "check", "metrics", page=page) == (0, "")


async def test_every_help_is_a_sentence(tmp_path):
    """Help texts say what is counted, and end as sentences do."""
    families, _page = await all_metrics(tmp_path)
    texts = [text for _name, _kind, text, _rows in families]
    assert [text for text in texts if not re.fullmatch(r"[A-Z1].+[^.]\.", text)] == []


def test_paths_are_told_by_their_kinds():
    """The page lists what the label `path` can be."""
    (cell,) = re.findall(r"^\| `path` \| (.+) \|$", PAGE, re.MULTILINE)
    assert set(names_in(cell)) == set(get_args(PathKind))


def test_workers_and_delivery_tell_the_same_names(start_server):
    """Each process tells of itself, and sinks go by their names, whoever feeds them."""
    site = start_server("--workers=2")
    answer = site.post({"batch": [{"type": "track", "event": "a", "messageId": new_id()}, 7]})
    assert answer.status == 200
    wait_until(lambda: site.metric("segsrv_sink_events_total", sink="file") == 1)
    wait_until(lambda: site.metric("segsrv_dead_letter_bytes") > 0)
    text = site.get("/metrics").body.decode()

    for name in ("segsrv_build_info", "process_resident_memory_bytes", "process_open_fds"):
        told = re.findall(rf'^{name}{{.*worker="(\w+)"}} \S+$', text, re.MULTILINE)
        assert sorted(told) == ["0", "1", "delivery"]
    assert set(re.findall(r'sink="([^"]*)"', text)) == {"file"}
    assert site.metric("segsrv_dead_letters_total") == 1
    assert site.metric("segsrv_dead_letters_total", sink="file") == 0
    assert site.metric("segsrv_sink_lag_events") == 0
