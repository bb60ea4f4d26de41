"""The correction by the sender's clock as part of the whole path, and for any stamps."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segsrv.events.clock import correct_timestamp, parse_stamp, text_of
from tests.events.event_runs import NOW, TIMESTAMP, body_of, store, store_batch
from tests.events.event_strategies import LEAVES

both_formats = pytest.mark.parametrize("output", ["flat", "compat"])
moments = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@both_formats
class TestCorrection:
    def test_is_off_by_default(self, output):
        """Without the setting, stamps are stored as they were sent."""
        event = {"timestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:01Z"}
        assert body_of(store(event, output)) == event
        assert body_of(store({}, output)) == {}

    def test_by_the_senders_clock(self, output):
        """The time is as long before the receipt as it was before the sending."""
        event = {"timestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:01.5Z"}
        stored = body_of(store(event, output, correct_timestamps=True))
        assert stored == {
            "timestamp": "2026-11-23T08:59:58.500000Z",
            "originalTimestamp": "2020-01-01T00:00:00Z",
            "sentAt": "2020-01-01T00:00:01.5Z",
        }

    def test_by_the_batchs_sending(self, output):
        """The batch's `sentAt` serves events without their own."""
        batch = [{"timestamp": "2020-01-01T00:00:00Z"}]
        body = {"batch": batch, "sentAt": "2020-01-01T01:00:00+01:00"}
        (stored,) = store_batch(body, output, correct_timestamps=True)
        assert stored["timestamp"] == TIMESTAMP

    @pytest.mark.parametrize("event", [{}, {"timestamp": None}], ids=repr)
    def test_without_a_time(self, output, event):
        """An event without a time gets the server's."""
        stored = body_of(store(event, output, correct_timestamps=True))
        assert stored == {"timestamp": TIMESTAMP}

    @pytest.mark.parametrize(
        "event",
        [
            {"timestamp": "2020-01-01T00:00:00Z"},
            {"timestamp": "2020-01-01T00:00:00Z", "sentAt": "soon"},
            {"timestamp": "soon", "sentAt": "2020-01-01T00:00:00Z"},
            {"timestamp": 5, "sentAt": "2020-01-01T00:00:00Z"},
            {"timestamp": "0001-01-01T00:00:00Z", "sentAt": "9999-12-31T00:00:00Z"},
        ],
        ids=repr,
    )
    def test_nothing_to_correct_by(self, output, event):
        """Stamps that can't be read, or give no date, leave the event as it is."""
        assert body_of(store(event, output, correct_timestamps=True)) == event

    def test_original_timestamp_alone(self, output):
        """What RudderStack's SDKs send as `originalTimestamp` is the time, where there is none."""
        event = {"originalTimestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:01.5Z"}
        for nothing in ({}, {"timestamp": None}):
            stored = body_of(store(event | nothing, output, correct_timestamps=True))
            assert stored == event | {"timestamp": "2026-11-23T08:59:58.500000Z"}

    @pytest.mark.parametrize("sent_at", [{}, {"sentAt": "soon"}], ids=repr)
    def test_original_timestamp_without_a_sending(self, output, sent_at):
        """Without anything to correct it by, it is stored as the time as it is."""
        event = {"originalTimestamp": "2020-01-01T00:00:00Z"} | sent_at
        stored = body_of(store(event, output, correct_timestamps=True))
        assert stored == event | {"timestamp": "2020-01-01T00:00:00Z"}

    def test_both_stamps(self, output):
        """Where an event has both, `timestamp` is its time, and what is kept of it."""
        event = {
            "timestamp": "2020-01-01T00:00:00Z",
            "originalTimestamp": "1999-01-01T00:00:00Z",
            "sentAt": "2020-01-01T00:00:00Z",
        }
        stored = body_of(store(event, output, correct_timestamps=True))
        assert stored == event | {
            "timestamp": TIMESTAMP,
            "originalTimestamp": "2020-01-01T00:00:00Z",
        }


@given(moments, st.timedeltas(min_value=timedelta(), max_value=timedelta(days=3)))
@settings(deadline=None, max_examples=100)
def test_the_age_is_kept(happened_at, age):
    """Whatever the sender's clock shows, the event's age at its sending is kept."""
    event = {"timestamp": text_of(happened_at), "sentAt": text_of(happened_at + age)}
    correct_timestamp(event, NOW)
    assert parse_stamp(event["timestamp"]) == NOW - age


@given(LEAVES | st.text(), LEAVES | st.text())
@settings(deadline=None, max_examples=100)
def test_any_values(timestamp, sent_at):
    """No pair of values makes the correction fail."""
    event = {"timestamp": timestamp, "sentAt": sent_at}
    correct_timestamp(event, NOW)
    assert event["sentAt"] is sent_at
