"""docs/sinks/webhook.md says what the code does."""

import dataclasses
import re
import time

from segsrv.sinks.webhook.kind import BODY_BYTES_MAX, EVENTS_MAX, WEBHOOK
from segsrv.sinks.webhook.options import WebhookOptions
from segsrv.sinks.webhook.request import prepare
from tests.server_process import REPOSITORY
from tests.sinks.test_webhook_sink import KEY, OLD_KEY, batch_of, whsec

TEXT = (REPOSITORY / "docs" / "sinks" / "webhook.md").read_text()


def rows(head: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called *head*."""
    table = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table
    return [
        [cell.strip(" `") for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()
    ]


def test_every_option_is_there_with_its_default():
    """In the order of the code, with its range and what it says there."""
    documented = rows("option")
    assert [row[0] for row in documented] == [f.name for f in dataclasses.fields(WebhookOptions)]
    for (_name, default, text), field in zip(
        documented, dataclasses.fields(WebhookOptions), strict=True
    ):
        is_none = field.default in (None, dataclasses.MISSING)
        assert default == ("none" if is_none else str(field.default))
        first = re.split(r"[;.(]|: ", field.metadata["help"])[0]
        assert first.replace("longest time", "seconds") in text
        if field.metadata.get("low") is not None:
            low, high = field.metadata["low"], field.metadata["high"]
            assert f"({low} to {high})" in text


def test_every_secret_is_there():
    """And none that is unknown."""
    assert sorted(row[0] for row in rows("secret")) == sorted(WEBHOOK.secrets)


def test_the_tests_that_show_it_are_there():
    """Each promise names one that exists."""
    faults = (REPOSITORY / "tests" / "sinks" / "test_webhook_faults.py").read_text()
    names = [row[1].partition("::") for row in rows("what")]
    assert names
    for group, _colons, name in names:
        assert f"class {group}:" in faults
        assert f"def {name}(" in faults


def test_the_limits_of_a_batch_are_there():
    """Those that the kind sets."""
    assert f"`batch_events_max` is {EVENTS_MAX}" in TEXT
    assert f"`batch_bytes_max` {BODY_BYTES_MAX:,}" in TEXT


def test_the_example_verifies_what_is_sent():
    """As it stands there: genuine with the new and the old key, and with nothing changed."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(code, names)
    is_genuine = names["is_genuine"]
    request = prepare(batch_of(), "ndjson", "gzip", [KEY, OLD_KEY])
    headers = {name.lower(): value for name, value in request.headers.items()}

    assert is_genuine(headers, request.body, whsec(KEY))
    assert is_genuine(headers, request.body, whsec(OLD_KEY))
    assert not is_genuine(headers, request.body + b" ", whsec(KEY))
    assert not is_genuine(headers, request.body, whsec(b"x" * 32))
    assert not is_genuine(headers | {"webhook-id": "other"}, request.body, whsec(KEY))
    late = {"webhook-timestamp": str(int(time.time()) - 3_600)}
    assert not is_genuine(headers | late, request.body, whsec(KEY))
    assert len(code.splitlines()) <= 12
