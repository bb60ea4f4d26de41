"""docs/prometheus/alerts.yml: each alert comes when it should, says what to do, or is quiet."""

import json
from typing import NamedTuple

import pytest
import yaml

from tests.ops.promtool import promtool
from tests.server_process import REPOSITORY

RULES_PATH = REPOSITORY / "docs" / "prometheus" / "alerts.yml"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES_PATH.read_text())["groups"]
    for rule in group["rules"]
}
WORKER = {"instance": "a:9090", "job": "segsrv", "worker": "0"}
SERVER = {"instance": "a:9090", "job": "segsrv"}
SINK = {**WORKER, "worker": "delivery", "sink": "warehouse"}
MINUTES = 30
BUILD = "segsrv_build_info"


class Case(NamedTuple):
    """Series that make an alert come, those that don't, its labels and what its summary says.

    A series is a metric, its labels, and how it goes on each minute, as promtool writes it.
    """

    loud: list
    quiet: list
    labels: dict
    summary: str


def buckets(metric, *, fast, slow, labels):
    """Return a histogram that grows by *fast* short times a minute and *slow* of 1 to 2.5 s."""
    return [
        (f"{metric}_bucket", {**labels, "le": bound}, f"0+{count}x{MINUTES}")
        for bound, count in (
            ("0.01", fast),
            ("1.0", fast),
            ("2.5", fast + slow),
            ("+Inf", fast + slow),
        )
    ]


def flat(value):
    return f"{value}x{MINUTES}"


def per_minute(count):
    return f"0+{count}x{MINUTES}"


def one(name, labels, loud, quiet, expected, summary):
    return Case([(name, labels, loud)], [(name, labels, quiet)], expected, summary)


def pair(names, labels, loud, quiet, summary):
    """Return the case of what is compared with its limit."""
    first, limit = names
    limits = (limit, labels, flat(100))
    return Case([(first, labels, loud), limits], [(first, labels, quiet), limits], labels, summary)


CASES = {
    "SegsrvGone": Case([], [(BUILD, WORKER, flat(1))], {}, "No segsrv answers the scrape."),
    "SegsrvNotReady": one(
        *("segsrv_journal_ready", WORKER, flat(0), flat(1), WORKER),
        "Worker 0 of a:9090 takes no events.",
    ),
    "SegsrvSilent": one(
        *("segsrv_report_age_seconds", WORKER, flat(90), flat(2), WORKER),
        "0 of a:9090 has told nothing for 1m 30s.",
    ),
    "SegsrvRestarts": Case(
        [
            ("process_start_time_seconds", WORKER, f"1x{MINUTES - 6} 2 3 4 4 4 4"),
            (BUILD, {**WORKER, "version": "1"}, flat(1)),
        ],
        [
            ("process_start_time_seconds", WORKER, f"1x{MINUTES - 6} 2 2 2 2 2 2"),
            ("process_start_time_seconds", {**WORKER, "job": "other"}, f"0+1x{MINUTES}"),
            (BUILD, {**WORKER, "version": "1"}, flat(1)),
        ],
        WORKER,
        "0 of a:9090 has started 3 times in 15 minutes.",
    ),
    "SegsrvJournalNearlyFull": pair(
        ("segsrv_journal_undelivered_bytes", "segsrv_journal_max_bytes"),
        *(WORKER, flat(90), flat(70)),
        "The journal of worker 0 on a:9090 is 90% full.",
    ),
    "SegsrvJournalFillsUp": pair(
        ("segsrv_journal_undelivered_bytes", "segsrv_journal_max_bytes"),
        *(WORKER, per_minute(2), per_minute(0.3)),
        "The journal of worker 0 on a:9090 is full within an hour if this goes on.",
    ),
    "SegsrvCommitsFail": one(
        *("segsrv_commit_failures_total", WORKER, per_minute(1), flat(3), WORKER),
        "The disk of worker 0 on a:9090 refuses commits.",
    ),
    "SegsrvCommitsSlow": Case(
        buckets("segsrv_commit_seconds", fast=90, slow=10, labels=WORKER),
        buckets("segsrv_commit_seconds", fast=1_000, slow=1, labels=WORKER),
        WORKER,
        "1 in 100 commits of worker 0 on a:9090 takes more than 2.35s.",
    ),
    "SegsrvRequestsSlow": Case(
        buckets("segsrv_request_seconds", fast=90, slow=10, labels=WORKER),
        buckets("segsrv_request_seconds", fast=1_000, slow=1, labels=WORKER),
        SERVER,
        "1 in 100 requests to a:9090 takes more than 2.35s.",
    ),
    "SegsrvJournalDamaged": one(
        *("segsrv_delivery_damaged_frames_total", {**WORKER, "journal": "w0"}),
        *(per_minute(1), flat(1), {**WORKER, "journal": "w0"}),
        "Parts of a journal on a:9090 are damaged or gone.",
    ),
    "SegsrvSinkMisconfigured": one(
        *("segsrv_sink_misconfigured", SINK, flat(1), flat(0), SINK),
        "The sink warehouse on a:9090 takes nothing as it is configured.",
    ),
    "SegsrvSinkDown": Case(
        [("segsrv_sink_up", SINK, flat(0)), ("segsrv_sink_misconfigured", SINK, flat(0))],
        [("segsrv_sink_up", SINK, flat(0)), ("segsrv_sink_misconfigured", SINK, flat(1))],
        SINK,
        "The sink warehouse on a:9090 has taken nothing for 5 minutes.",
    ),
    "SegsrvSinkFallsBehind": Case(
        [
            ("segsrv_sink_lag_seconds", SINK, flat(600)),
            ("segsrv_sink_lag_bytes", SINK, per_minute(5)),
            ("segsrv_sink_up", SINK, flat(1)),
        ],
        [
            ("segsrv_sink_lag_seconds", SINK, flat(600)),
            ("segsrv_sink_lag_bytes", SINK, f"900-5x{MINUTES}"),
            ("segsrv_sink_up", SINK, flat(1)),
        ],
        SINK,
        "The sink warehouse on a:9090 is 10m 0s behind, and falls back further.",
    ),
    "SegsrvSinkLagNearLimit": pair(
        ("segsrv_sink_lag_bytes", "segsrv_sink_lag_max_bytes"),
        *(SINK, flat(85), flat(80)),
        "The sink warehouse on a:9090 has used 85% of the lag it may have.",
    ),
    "SegsrvSetAsideLost": one(
        *("segsrv_sink_set_aside_lost_bytes_total", SINK, per_minute(9), flat(9), SINK),
        "Events that were set aside for the sink warehouse on a:9090 have been deleted.",
    ),
    "SegsrvDeadLetters": one(
        *("segsrv_dead_letters_total", SINK, per_minute(2), flat(2)),
        {**SERVER, "sink": "warehouse"},
        "30 events became dead letters on a:9090, refused by the sink warehouse.",
    ),
    "SegsrvRefusesForWantOfRoom": Case(
        [("segsrv_answers_total", {**WORKER, "status": "503", "path": "other"}, per_minute(120))],
        [
            ("segsrv_answers_total", {**WORKER, "status": "503", "path": "probe"}, per_minute(120)),
            ("segsrv_answers_total", {**WORKER, "status": "503", "path": "batch"}, flat(7)),
            ("segsrv_answers_total", {**WORKER, "status": "400", "path": "batch"}, per_minute(9)),
        ],
        SERVER,
        "a:9090 turns away 2 requests a second that it has no room or time for.",
    ),
    "SegsrvRefusesMany": Case(
        [
            ("segsrv_requests_total", {**WORKER, "status": "200"}, per_minute(90)),
            ("segsrv_requests_total", {**WORKER, "status": "401"}, per_minute(10)),
        ],
        [
            ("segsrv_requests_total", {**WORKER, "status": "200"}, per_minute(90)),
            ("segsrv_requests_total", {**WORKER, "status": "429"}, per_minute(90)),
            ("segsrv_requests_total", {**WORKER, "status": "400"}, per_minute(3)),
        ],
        SERVER,
        "a:9090 refuses 10% of requests for what is in them.",
    ),
    "SegsrvFaults": one(
        *("segsrv_requests_total", {**WORKER, "status": "500"}, per_minute(1), flat(4), SERVER),
        "a:9090 has answered requests with 500.",
    ),
    "SegsrvFewFiles": Case(
        [
            ("process_open_fds", WORKER, flat(95)),
            ("process_max_fds", WORKER, flat(100)),
            (BUILD, WORKER, flat(1)),
        ],
        [
            ("process_open_fds", WORKER, flat(50)),
            ("process_max_fds", WORKER, flat(100)),
            (BUILD, WORKER, flat(1)),
        ],
        WORKER,
        "0 of a:9090 has 95% of the files open that it may.",
    ),
}


def written(series):
    return [
        {"series": f"{name}{{{labels_of(labels)}}}", "values": values}
        for name, labels, values in series
    ]


def labels_of(labels):
    return ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())


def checked(tmp_path, alert, series, expected):
    """Have promtool say whether *alert* is as *expected* after MINUTES of *series*."""
    case = {
        "interval": "1m",
        "input_series": written(series),
        "alert_rule_test": [
            {"eval_time": f"{MINUTES}m", "alertname": alert, "exp_alerts": expected}
        ],
    }
    page = {"rule_files": [str(RULES_PATH)], "evaluation_interval": "1m", "tests": [case]}
    path = tmp_path / "case.yml"
    # JSON is YAML.
    path.write_text(json.dumps(page))
    return promtool("test", "rules", path)


def test_every_alert_has_a_case():
    """And no case is of an alert that is gone."""
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize("alert", CASES)
def test_it_comes_when_it_should(tmp_path, alert):
    """With the labels that tell what is meant, and a summary with figures for a person."""
    case, rule = CASES[alert], RULES[alert]
    expected = {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {
            "summary": case.summary,
            "description": rule["annotations"]["description"],
        },
    }
    assert checked(tmp_path, alert, case.loud, [expected]) == (0, "")


@pytest.mark.parametrize("alert", CASES)
def test_it_is_quiet_otherwise(tmp_path, alert):
    """Near its threshold, and where another alert is the right one."""
    assert checked(tmp_path, alert, CASES[alert].quiet, []) == (0, "")


def test_letters_without_a_sink_are_told_as_such(tmp_path):
    """Items of batches that were set aside have no sink to be named."""
    alert = "SegsrvDeadLetters"
    series = [("segsrv_dead_letters_total", WORKER, per_minute(2))]
    annotations = RULES[alert]["annotations"]
    summary = "30 events became dead letters on a:9090."
    expected = {
        "exp_labels": {**SERVER, "severity": "warning"},
        "exp_annotations": {**annotations, "summary": summary},
    }
    assert checked(tmp_path, alert, series, [expected]) == (0, "")


def test_promtool_takes_the_file():
    """It is a file of rules as Prometheus reads them."""
    assert promtool("check", "rules", RULES_PATH) == (0, "")
