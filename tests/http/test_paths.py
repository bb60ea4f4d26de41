"""Every path that an SDK posts to, however its host was joined to it."""

import http.client
import json

import pytest

from segsrv.http.paths import CALLS, ingest_paths, normalised
from tests.site import COMPAT, FLAT, KEY, LONDON, RAW, basic, id_of, new_id

BATCHES = [
    *("/v1/batch", "/v1/import", "/batch", "/import", "/b", "/v1/b", "/batch/b", "/v1/batch/b"),
    # June's SDKs.
    *("/sdk/batch", "/sdk/b"),
    # RudderStack's browser SDK with `useBeacon`.
    "/beacon/v1/batch",
]


def type_of(event):
    return event["event_type" if "event_type" in event else "type"]


@pytest.mark.parametrize("prefix", [FLAT, COMPAT, RAW, ""], ids=["flat", "compat", "raw", "root"])
class TestPrefixes:
    def test_every_batch_path_takes_batches(self, site, prefix):
        """All batch paths of the SDKs store a batch in the format of their prefix."""
        ids = []
        for suffix in BATCHES:
            ids.append(new_id())
            body = {"batch": [{"type": "track", "messageId": ids[-1]}]}
            assert site.post(body, path=prefix + suffix).body == b'{"status":"ok"}', suffix
        assert len(BATCHES) == len(site.stored(*ids))

    def test_every_call_path_gives_its_type(self, site, prefix):
        """Letters and names, with and without /v1, give events without a type theirs."""
        expected = {}
        for letter, name in CALLS.items():
            for suffix in (
                *(f"/{letter}", f"/v1/{letter}", f"/sdk/{letter}"),
                *(f"/{name}", f"/v1/{name}", f"/sdk/{name}"),
            ):
                event_id = new_id()
                expected[event_id] = name
                body = {"messageId": event_id, "userId": "u1"}
                assert site.post(body, path=prefix + suffix).status == 200, suffix
        stored = site.stored(*expected)

        assert expected == {id_of(event): type_of(event) for event in stored}

    def test_an_event_keeps_its_own_type(self, site, prefix):
        """The path's type is only for events that have none."""
        event_id = new_id()
        site.post({"messageId": event_id, "type": "page", "userId": "u1"}, path=prefix + "/v1/t")
        assert type_of(site.stored(event_id)[0]) == "page"

    @pytest.mark.parametrize(
        "joined", ["/v1/batch/", "//v1/batch", "/v1//batch", "/v1/batch//", "///v1///batch///"]
    )
    def test_carelessly_joined_paths_are_found(self, site, prefix, joined):
        """Slashes doubled or at the end are answered at once, never with a redirect."""
        event_id = new_id()
        body = {"batch": [{"type": "track", "messageId": event_id}]}
        assert (
            (answer := site.post(body, path=prefix + joined)).status,
            answer.body,
        ) == (200, b'{"status":"ok"}')
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize("suffix", ["/m", "/v1/m", "/v1/m/", "/sdk/m"])
    def test_telemetry_is_swallowed(self, site, prefix, suffix):
        """What SDKs report of themselves is answered ok without a key, and not stored."""
        before = len(site.process.events())
        answer = site.post({"series": [{"type": "Counter"}]}, path=prefix + suffix, key=None)
        assert answer.status == 200
        assert before == len(site.process.events())


class TestOthers:
    def test_bare_prefixes_take_both_forms(self, site):
        """React Native posts batches to the bare prefix when it is given one as its proxy."""
        for path in (FLAT, COMPAT, RAW):
            event_id = new_id()
            body = {"batch": [{"type": "track", "messageId": event_id}], "writeKey": KEY}
            assert site.post(body, path=path, key=None).status == 200
            assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize("kind", ["track", "page", "identify", "group"])
    @pytest.mark.parametrize("base", ["/api/s/", "/api/s/s2s/"])
    def test_jitsu_paths_are_flat(self, site, base, kind):
        """@jitsu/js posts single events to a path that names their type."""
        event_id = new_id()
        answer = site.post({"messageId": event_id, "userId": "u1"}, path=base + kind)
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        (event,) = site.stored(event_id)
        assert kind == event["event_type"]
        assert "eventn_ctx" not in event

    def test_other_methods_are_404(self, site):
        """A GET of an ingest path is not an ingest; it is told so in JSON."""
        answer = site.get(FLAT)
        assert answer.status == 404
        assert "GET" in answer.json()["message"]

    def test_no_two_paths_are_alike_but_for_slashes(self):
        """The table's paths are normalised, so each is found in any spelling."""
        for path in ingest_paths():
            assert path == normalised(path)


# As @jitsu/sdk-js makes them, the last with `randomize_url`.
TRACKER_PATHS = {
    "browser": f"/api/v1/event?token={KEY}",
    "server": f"/api/v1/s2s/event?token={KEY}",
    "randomized": f"/api.x4k2q?p_b71zw={KEY}",
}
# Every name that the mapping of Segment's events would move or take off the root.
MAPPED_NAMES = (
    "page traits userAgent campaign os device ip locale location context properties anonymousId"
    " userId type batch"
).split()


def tracked(event_id, **fields):
    """Return an event as the older tracker sends it: in the format that it is stored in."""
    return {
        "event_type": "pageview",
        "eventn_ctx_event_id": event_id,
        "event_id": "",
        "src": "jitsu",
        "api_key": KEY,
        "user": {"anonymous_id": "cookie", "email": "a@b.example"},
        "ids": {"ga": "GA1.2.3"},
        "utc_time": "2026-11-23T09:00:00.000000Z",
        "local_tz_offset": -60,
        "user_agent": "curl/7.68.0",
        "doc_path": "/",
        **fields,
    }


@pytest.mark.parametrize("path", TRACKER_PATHS.values(), ids=TRACKER_PATHS.keys())
class TestOlderTracker:
    @pytest.mark.parametrize("is_array", [False, True], ids=["object", "array"])
    def test_events_are_stored_as_they_come(self, site, path, is_array):
        """One event or an array of them is completed, and no field is moved or dropped."""
        event_id = new_id()
        event = tracked(event_id, **{name: {"k": [1]} for name in MAPPED_NAMES})
        body = [event] if is_array else event
        answer = site.post(body, path=path, key=None, headers={"X-Forwarded-For": LONDON})
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')

        (stored,) = site.stored(event_id)
        assert stored.pop("_timestamp")
        assert len(stored["user"].pop("hashed_anonymous_id")) == 32
        assert stored == event | {
            "src": "segment_api",
            "source_ip": LONDON,
            "parsed_ua": {"ua_family": "curl", "ua_version": "7.68.0"},
        }

    def test_the_deprecated_structure(self, site, path):
        """With `compat_mode` the tracker's fields are in `eventn_ctx`, and stay there."""
        event_id = new_id()
        context = {"event_id": event_id, "user": {"anonymous_id": "cookie"}, "user_agent": "zzz"}
        event = {"event_type": "click", "src": "eventn", "eventn_ctx": context, "k": 1}
        assert site.post([event], path=path, key=None).status == 200

        (stored,) = site.stored(event_id)
        assert stored["k"] == 1
        assert stored["eventn_ctx"].items() >= {"event_id": event_id, "user_agent": "zzz"}.items()
        assert len(stored["eventn_ctx"]["user"]["hashed_anonymous_id"]) == 32
        assert "eventn_ctx_event_id" not in stored

    def test_policies_of_the_query(self, site, path):
        """What the tracker's privacy options add to the URL is heeded and answered."""
        event_id = new_id()
        answer = site.post(
            [tracked(event_id)],
            path=path + "&cookie_policy=strict&ip_policy=strict",
            key=None,
            headers={"X-Forwarded-For": LONDON},
        )
        assert answer.json() == {"status": "ok", "delete_cookie": True}
        (stored,) = site.stored(event_id)
        assert stored["source_ip"] == "81.2.69.1"
        assert stored["user"]["anonymous_id"] == stored["user"]["hashed_anonymous_id"]

    def test_events_stand_alone(self, site, path):
        """In an array, what is no object is set aside, and its neighbours are stored."""
        ids = [new_id(), new_id()]
        before = len(site.dead_letters())
        body = [tracked(ids[0]), 5, tracked(ids[1])]
        assert site.post(body, path=path, key=None).status == 200
        assert len(site.stored(*ids)) == 2
        assert [letter["reason"] for letter in site.dead_letters()[before:]] == ["not_an_object"]

    def test_refusals(self, site, path):
        """An array over the limit, a body that holds no events and a wrong key are refused."""
        for body, code in (
            ([{}] * 2_501, "batch_too_long"),
            ("text", "invalid_body"),
            (b"[{}", "invalid_json"),
        ):
            answer = site.post(body, path=path, key=None)
            assert (answer.status, answer.json()["code"]) == (400, code)
        wrong = path.replace(KEY, "wrong")
        assert site.post([tracked(new_id())], path=wrong, key=None).status == 401

    def test_slashes_may_be_doubled(self, site, path):
        """A host that ends with a slash is no matter."""
        event_id = new_id()
        assert site.post([tracked(event_id)], path="/" + path, key=None).status == 200
        assert len(site.stored(event_id)) == 1


def test_the_older_trackers_servers_name_addresses(site):
    """From a server an event keeps the address that it names; a page gets its sender's."""
    ids = {name: new_id() for name in TRACKER_PATHS}
    for name, path in TRACKER_PATHS.items():
        event = tracked(ids[name], source_ip="8.8.8.8")
        site.post([event], path=path, key=None, headers={"X-Forwarded-For": LONDON})
    addresses = [event["source_ip"] for event in site.stored(*ids.values())]
    assert dict(zip(ids, addresses, strict=True)) == {
        "browser": LONDON,
        "server": "8.8.8.8",
        "randomized": LONDON,
    }


@pytest.mark.parametrize("path", [FLAT, COMPAT, "/v1/batch", "/v1/t", "/api/s/track"])
def test_arrays_are_taken_nowhere_else(site, path):
    """A body that is an array is refused on the paths of the Segment API."""
    answer = site.post([{"type": "track"}], path=path)
    assert (answer.status, answer.json()["code"]) == (400, "invalid_body")


class TestBodiesWithoutEvents:
    @pytest.mark.parametrize("prefix", [FLAT, COMPAT, ""], ids=["flat", "compat", "root"])
    @pytest.mark.parametrize("suffix", BATCHES)
    def test_a_batch_path_says_what_is_missing(self, site, prefix, suffix):
        """Another vendor's format is refused with the keys that it has, and not stored as empty."""
        answer = site.post({"events": [{}], "api_version": 2}, path=prefix + suffix)
        assert (answer.status, answer.json()["code"]) == (400, "missing_batch")
        for part in ('"batch"', '"type"', '"events"', '"api_version"'):
            assert part in answer.json()["message"]

    @pytest.mark.parametrize("path", ["/api/s/batch", "/api/s/s2s/batch"])
    def test_so_do_jitsu_s(self, site, path):
        """The batch paths of @jitsu/js refuse the same."""
        assert site.post({"events": []}, path=path).json()["code"] == "missing_batch"

    def test_few_and_short_names_are_shown(self, site):
        """However many and long its keys are, the message stays short, and in one line."""
        body = {f"{number}\n" + "x" * 1_000: 1 for number in range(1_000)}
        message = site.post(body, path="/v1/batch").json()["message"]
        assert "and 995 more" in message
        assert len(message) < 400
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/v1/batch", "missing_batch"),
            ("/v1/track", "empty_event"),
            ("/v1/t", "empty_event"),
            (FLAT, "empty_event"),
            ("/api/s/track", "empty_event"),
        ],
    )
    def test_an_empty_object_is_400_everywhere(self, site, path, code):
        """`{}` is no event, whatever the path says of its type."""
        answer = site.post({}, path=path)
        assert (answer.status, answer.json()["code"]) == (400, code)
        assert "empty" in answer.json()["message"]

    def test_a_key_is_asked_for_first(self, site):
        """Who has no key learns nothing else."""
        assert site.post({}, path="/v1/batch", key=None).status == 401

    def test_a_single_event_with_its_type_is_a_batch_of_one(self, site):
        """A batch path takes one event that says what it is; other paths take it without."""
        typed, untyped = new_id(), new_id()
        assert site.post({"type": "track", "messageId": typed}, path="/v1/batch").status == 200
        assert site.post({"messageId": untyped}, path=FLAT).status == 200
        assert len(site.stored(typed, untyped)) == 2

    @pytest.mark.parametrize("path", ["/v1/batch", "/v1/import", "/b"])
    def test_an_empty_batch_is_ok(self, site, path):
        """A batch of nothing has all that it needs."""
        assert site.post({"batch": []}, path=path).status == 200


def test_a_beacon_is_stored(site):
    """RudderStack's beacon: text/plain, the key in the query, from a page that may have cookies."""
    event_id = new_id()
    batch = {"batch": [{"type": "track", "messageId": event_id, "originalTimestamp": "2026-01-01"}]}
    answer = site.post(
        batch,
        path=f"/beacon/v1/batch?writeKey={KEY}",
        headers={"Content-Type": "text/plain", "Origin": "https://shop.example.com"},
        key=None,
    )
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert len(site.stored(event_id)) == 1


class TestSenderAddress:
    @pytest.mark.parametrize(
        "path", ["/v1/t", "/v1/b", "/b", "/api/s/track", "/beacon/v1/batch", "/sdk/t", "/sdk/b"]
    )
    def test_client_paths_take_the_sender(self, site, path):
        """A page can't choose its address: on browser and mobile paths the sender's is stored."""
        event_id = new_id()
        body = {"type": "track", "messageId": event_id, "context": {"ip": "1.2.3.4"}}
        site.post({"batch": [body]}, path=path, headers={"X-Forwarded-For": "8.8.8.8"})
        assert site.stored(event_id)[0]["source_ip"] == "8.8.8.8"

    def test_client_paths_keep_an_opted_out_address(self, site):
        """A page that sends 0.0.0.0, Segment's way to store no address, is heeded."""
        event_id = new_id()
        body = {"type": "track", "messageId": event_id, "context": {"ip": "0.0.0.0"}}
        site.post(body, path="/v1/t", headers={"X-Forwarded-For": "8.8.8.8"})
        assert site.stored(event_id)[0]["source_ip"] == "0.0.0.0"

    @pytest.mark.parametrize(
        "path", ["/v1/batch", "/v1/import", FLAT, "/api/s/s2s/track", "/sdk/batch"]
    )
    def test_server_paths_keep_the_event_s_own(self, site, path):
        """A server sends for others: events keep an address they name, else get the sender's."""
        named, unnamed = new_id(), new_id()
        batch = [
            {"type": "track", "messageId": named, "context": {"ip": "1.2.3.4"}},
            {"type": "track", "messageId": unnamed},
        ]
        site.post({"batch": batch}, path=path, headers={"X-Forwarded-For": "8.8.8.8"})
        addresses = [event["source_ip"] for event in site.stored(named, unnamed)]
        assert addresses == ["1.2.3.4", "8.8.8.8"]


def test_one_connection_may_mix_paths(site):
    """Requests to different paths follow each other on one connection."""
    connection = http.client.HTTPConnection(*site.address, timeout=30)
    for path in ("/v1/t", "/nothing", FLAT, "//v1//b"):
        connection.request(
            "POST",
            site.prefix + path,
            body=json.dumps({"type": "track", "messageId": new_id()}),
            headers={"Authorization": basic(KEY)},
        )
        response = connection.getresponse()
        assert (404 if path == "/nothing" else 200) == response.status
        json.loads(response.read())
    connection.close()
