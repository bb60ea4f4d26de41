"""What an operator can have stored of people and keys, and the clock correction."""

from datetime import datetime, timedelta

import pytest

from tests.site import FLAT, KEY, LONDON, new_id


def send(site, path=FLAT, **fields):
    event_id = new_id()
    event = {"type": "track", "anonymousId": "cookie", "messageId": event_id, **fields}
    answer = site.post(event, path=path, headers={"X-Forwarded-For": LONDON})
    assert answer.status == 200
    return answer.json(), site.stored(event_id)[0]


def test_policies_can_be_the_server_s(new_site):
    """The server's policies are for requests that name none; a request's own count first."""
    site = new_site("--ip-policy", "strict", "--cookie-policy", "strict")
    answer, event = send(site)
    assert answer == {"status": "ok", "delete_cookie": True}
    assert event["source_ip"] == "81.2.69.1"
    assert event["user"]["hashed_anonymous_id"] == event["user"]["anonymous_id"]

    answer, event = send(site, FLAT + "?ip_policy=keep&cookie_policy=keep")
    assert answer == {"status": "ok"}
    assert (event["source_ip"], event["user"]["anonymous_id"]) == (LONDON, "cookie")


@pytest.mark.parametrize(
    ("stored", "value"), [("secret", KEY), ("id", "web"), ("none", None)], ids=lambda value: value
)
def test_the_stored_key_is_a_choice(new_site, stored, value):
    """`api_key` holds the key's secret, its id, or is left out."""
    site = new_site("--stored-api-key", stored, write_keys=(f"web:{KEY}",))
    _answer, event = send(site)
    assert value == event.get("api_key")


class TestClock:
    def test_times_are_left_alone_by_default(self, site):
        """Without the setting an event's time is stored as it was sent."""
        _answer, event = send(site, timestamp="2020-01-01T00:00:00Z", sentAt="2020-01-01T00:00:05Z")
        assert event["timestamp"] == "2020-01-01T00:00:00Z"
        assert "originalTimestamp" not in event

    def test_a_wrong_clock_is_corrected(self, new_site):
        """With the setting, the time becomes the receipt's less what lay between the stamps."""
        site = new_site("--correct-timestamps", "true")
        original = "2020-01-01T00:00:00.506Z"
        _answer, event = send(site, timestamp=original, sentAt="2020-01-01T00:01:00.506Z")

        received, happened = (
            datetime.fromisoformat(event[name]) for name in ("_timestamp", "timestamp")
        )
        assert original == event["originalTimestamp"]
        assert timedelta(seconds=60) == received - happened
