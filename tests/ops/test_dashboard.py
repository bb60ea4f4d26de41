"""What docs/grafana/segsrv.json and docs/prometheus/alerts.yml ask for, `/metrics` has."""

import json
import re

import pytest
import yaml

from tests.ops.all_metrics import all_metrics
from tests.ops.promtool import promtool
from tests.server_process import REPOSITORY

DASHBOARD = json.loads((REPOSITORY / "docs" / "grafana" / "segsrv.json").read_text())
RULES_PATH = REPOSITORY / "docs" / "prometheus" / "alerts.yml"
RULES = [
    rule for group in yaml.safe_load(RULES_PATH.read_text())["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES = [
    variable["query"]["query"]
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
]
OF_SCRAPES = {"job", "instance"}
"""Labels that Prometheus itself gives to each sample."""
NAME = re.compile(r"\b(?:segsrv|process)_\w+")
LABELS = re.compile(r"\b(?:by|on) \(([^)]*)\)|[{,](\w+)[=!]~?=?\"|\{\{ ?(?:\$labels\.)?(\w+) ?\}\}")


def names_in(text):
    return set(NAME.findall(text))


def labels_in(text):
    parts = [part for found in LABELS.findall(text) for part in found if part]
    return {label.strip() for part in parts for label in part.split(",")}


@pytest.fixture
async def samples(tmp_path):
    """Return the names of all samples that a page of metrics can have, each with its labels."""
    _families, page = await all_metrics(tmp_path)
    found = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", page.decode(), re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize(
    "texts",
    [EXPRESSIONS + QUERIES, [rule["expr"] for rule in RULES], [RULES_PATH.read_text()]],
    ids=["dashboard", "rules", "what_the_rules_say"],
)
async def test_every_name_is_that_of_a_metric(samples, texts):
    """In queries, and in the advice that alerts give."""
    named = set().union(*map(names_in, texts))
    assert len(named) > 10
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples}
    assert named - samples.keys() - families == set()


async def test_every_label_is_one_of_the_metrics(samples):
    """A query for a label that a metric doesn't have would find nothing, and say nothing."""
    texts = [
        f"{target['expr']} {target['legendFormat']}" for p in PANELS for target in p["targets"]
    ]
    texts += [f"{rule['expr']} {rule['annotations']['summary']}" for rule in RULES]
    unknown = {}
    for text in texts:
        known = OF_SCRAPES.union(*(samples[name] for name in names_in(text)))
        unknown[text] = labels_in(text) - known - {"end"}

    assert {text: labels for text, labels in unknown.items() if labels} == {}


def test_promtool_reads_every_query(tmp_path):
    """Grafana's variables are put in as Grafana does."""
    expressions = [
        expression.replace("$__rate_interval", "1m")
        .replace("$job", "segsrv")
        .replace("$instance", ".*")
        for expression in EXPRESSIONS
    ]
    assert "$" not in "".join(expressions)
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert promtool("check", "rules", path) == (0, "")


def test_panels_stand_beside_each_other():
    """None covers another, each has an id of its own, and says what it shows."""
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] and panel["description"] for panel in PANELS)


def test_every_alert_says_what_to_do():
    """One line that says what is wrong and where, how bad it is, and advice."""
    for rule in RULES:
        assert rule["alert"].startswith("Segsrv")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description"}
        assert all(note.endswith(".") for note in notes.values()), rule["alert"]
