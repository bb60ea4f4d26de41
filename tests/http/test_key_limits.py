"""What a key may do is told by its answers: types, secrets that replace one another, disabled."""

import json

import pytest

from segsrv.settings import Key
from tests.http.test_ingest_alone import Server, answered, batch

WEB = {"X-Write-Key": "s1"}


def server_of(**values):
    return Server(keys=(Key(id="web", **({"secret": "s1"} | values)),))


class TestTypes:
    async def test_an_item_of_another_type_is_set_aside(self):
        """In a batch it becomes a dead letter with the reason, and its neighbours are stored."""
        server = server_of(types=("track", "other"))
        events = [{"type": kind, "event": "e"} for kind in ("track", "page", "x", None)]
        for count in (1, 50):
            server.post({"batch": events * count}, **WEB)
            await answered(server, len(server.answers) + 1)
            ((lines, letters, _done),) = server.commit.held
            assert [json.loads(line).get("event_type") for line in lines] == [
                "track",
                "x",
                None,
            ] * count
            told = [json.loads(letter) for letter in letters]
            assert [letter["item"]["type"] for letter in told] == ["page"] * count
            assert {letter["reason"] for letter in told} == {"type_not_allowed"}
            assert told[0]["message"] == "the write key may send only other, track"
            server.commit.end()
        assert server.told() == [(200, None)] * 2

    def test_a_single_event_of_another_type_is_refused(self):
        """400 is what every SDK takes as final; the path's type counts where the event has none."""
        server = server_of(types=("track",))
        server.post({"event": "a"}, path="/v1/track", **WEB)
        server.commit.end()
        server.post({"name": "a"}, path="/v1/page", **WEB)
        server.post({"type": "page", "name": "a"}, path="/v1/track", **WEB)
        assert server.told() == [(200, None), *[(400, "type_not_allowed")] * 2]


class TestSecrets:
    @pytest.mark.parametrize("sent", ["new", "old", "web:new", "web:old"])
    @pytest.mark.parametrize("is_in_body", [False, True])
    def test_each_secret_is_the_key(self, sent, is_in_body):
        """While clients change over, both are good, and events hold the first."""
        server = server_of(secret="", secrets=("new", "old"))
        if is_in_body:
            server.post({**batch(1), "writeKey": sent}, Host="a")
        else:
            server.post(batch(1), **{"X-Write-Key": sent})
        ((lines, _letters, _done),) = server.commit.held
        assert json.loads(lines[0])["api_key"] == "new"

    def test_no_secret_is_logged(self, caplog):
        """Where a client's text is quoted, each secret gives way to the key's id."""
        server = server_of(secret="", secrets=("new-secret", "old-secret"), origins=("https://a",))
        server.post(batch(1), **{"X-Write-Key": "new-secret", "Origin": "https://old-secret"})
        assert "[key web]" in caplog.text
        assert "-secret" not in caplog.text


class TestDisabled:
    @pytest.mark.parametrize("is_in_body", [False, True])
    def test_a_disabled_key_is_told_so(self, is_in_body):
        """401 with a code and a message of its own, before anything of the body is parsed."""
        server = server_of(disabled=True)
        if is_in_body:
            server.post({**batch(1), "writeKey": "s1"}, Host="a")
        else:
            server.post(b"{", **WEB)
        assert server.told() == [(401, "key_disabled")]
        assert "disabled" in json.loads(server.answers[0].body)["message"]

    def test_a_disabled_key_in_a_property_harms_nobody(self):
        """Which key a body has is said by its place."""
        server = server_of(disabled=True)
        event = {"type": "track", "event": "a", "properties": {"writeKey": "s1"}}
        server.post({"batch": [event], "writeKey": "the-key"}, Host="a")
        server.commit.end()
        assert server.told() == [(200, None)]


class TestRates:
    def test_a_key_that_sends_too_much_is_told_when_to_come_again(self):
        """429 with whole seconds in both headers that SDKs read, and nothing is stored."""
        server = server_of(rate_events_per_s=0.5, burst_events=2)
        server.post(batch(5), **WEB)
        server.commit.end()
        server.post(batch(1), **WEB)
        assert server.told() == [(200, None), (429, "rate_limited")]
        headers = server.answers[1].headers
        assert headers["Retry-After"] == headers["X-RateLimit-Reset"] == "8"
        assert server.commit.held == []

    @pytest.mark.parametrize("is_in_body", [False, True])
    def test_a_key_in_debt_has_nothing_parsed(self, is_in_body, monkeypatch):
        """Its body is as good as unread: no work is done that comes to nothing."""
        server = server_of(rate_events_per_s=0.5, burst_events=1)
        headers = {"Host": "a"} if is_in_body else WEB
        body = {**batch(1), "writeKey": "s1"}
        server.post(body, **headers)
        server.commit.end()
        monkeypatch.setattr("segsrv.http.ingest.parse", None)
        server.post(body, **headers)
        assert server.told() == [(200, None), (429, "rate_limited")]

    def test_a_key_in_debt_in_a_property_harms_nobody(self):
        """Only the key whose place it is counts."""
        server = server_of(rate_events_per_s=0.5, burst_events=1)
        server.post(batch(9), **WEB)
        event = {"type": "track", "event": "a", "properties": {"writeKey": "s1"}}
        server.post({"batch": [event], "writeKey": "the-key"}, Host="a")
        server.commit.end()
        assert server.told() == [(200, None)] * 2

    def test_what_can_not_be_read_costs_nothing(self):
        """Only events count."""
        server = server_of(rate_events_per_s=0.5, burst_events=1)
        for _ in range(3):
            server.post(b"{", **WEB)
        server.post(batch(1), **WEB)
        server.commit.end()
        assert server.told() == [(400, "invalid_json")] * 3 + [(200, None)]

    async def test_large_bodies_are_counted_too(self):
        """They wait for their turn, and the second one finds the bucket empty."""
        server = server_of(rate_events_per_s=0.5, burst_events=10)
        server.post(batch(100), **WEB)
        server.post(batch(100), **WEB)
        await answered(server, 2)
        server.commit.end()
        assert sorted(server.told(), key=str) == [(200, None), (429, "rate_limited")]
