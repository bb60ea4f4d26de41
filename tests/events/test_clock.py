"""The clock correction reads every SDK's stamps, and an odd stamp changes nothing."""

from datetime import UTC, datetime

import pytest

from segsrv.events.clock import correct_timestamp

RECEIVED = datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("original", "sent_at"),
    [
        ("2020-01-01T00:00:00.506Z", "2020-01-01T00:01:00.506Z"),
        ("2020-01-01T00:00:00+00:00", "2020-01-01T01:01:00+01:00"),
        ("2020-01-01T00:00:00.123456789Z", "2020-01-01T00:01:00.123456Z"),
        ("2020-01-01T00:00:00.1234567Z", "2020-01-01T00:01:00.1234567Z"),
        ("2019-12-31T17:00:00.5-07:00", "2020-01-01T00:01:00.5Z"),
        ("2020-01-01T00:00:00", "2020-01-01T00:01:00Z"),
    ],
    ids=["js", "php", "go", "csharp", "ruby", "naive"],
)
def test_every_form_of_a_stamp_is_read(original, sent_at):
    """The time becomes the receipt's less the minute between the stamps, in any notation."""
    event = {"timestamp": original, "sentAt": sent_at}
    correct_timestamp(event, RECEIVED)

    assert event["timestamp"] == "2026-11-23T08:59:00.000000Z"
    assert original == event["originalTimestamp"]


@pytest.mark.parametrize(
    ("original", "sent_at"),
    [
        ("yesterday", "2020-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00Z", None),
        ("2020-01-01T00:00:00Z", {"a": 1}),
        ("2020-01-01T00:00:00Z", "x" * 10_000),
        (12345, "2020-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"),
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_a_stamp_that_can_t_be_read_changes_nothing(original, sent_at):
    """An event with odd or impossible stamps keeps the time that it came with."""
    event = {"timestamp": original, "sentAt": sent_at}
    correct_timestamp(event, RECEIVED)

    assert {"timestamp": original, "sentAt": sent_at} == event


def test_early_years_are_written_with_four_digits():
    """A corrected time in a far year is still a valid stamp."""
    event = {"timestamp": "0100-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:00Z"}
    correct_timestamp(event, datetime(2020, 1, 1, tzinfo=UTC))
    assert event["timestamp"] == "0100-01-01T00:00:00.000000Z"
