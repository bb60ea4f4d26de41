"""Images that carry events: read as a POST would be, and always answered with an image."""

import base64
import json
import urllib.parse

import pytest

from segsrv.http.paths import CALLS, pixel_paths
from tests.site import COMPAT, FLAT, KEY, LONDON, id_of, new_id

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:118.0) Gecko/20100101 Firefox/118.0"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/118.0.0.0 Safari/537.36"
)
TRACK = "/v1/pixel/track"


def data_of(event) -> str:
    return base64.urlsafe_b64encode(json.dumps(event).encode()).decode()


def is_image(answer) -> bool:
    """Say whether the answer is a whole GIF of one point that nobody keeps."""
    body = answer.body
    return (
        body.startswith(b"GIF89a\x01\x00\x01\x00")
        and body.endswith(b";")
        and len(body) == int(answer.headers["Content-Length"]) == 43
        and answer.headers["Content-Type"] == "image/gif"
        and "no-store" in answer.headers["Cache-Control"]
    )


def fetch(site, event, *, path=TRACK, **headers):
    return site.get(f"{path}?data={data_of(event)}", **headers)


class TestPaths:
    @pytest.mark.parametrize("prefix", ["", FLAT, COMPAT], ids=["root", "flat", "compat"])
    @pytest.mark.parametrize("base", ["/v1/pixel", "/pixel/v1"])
    def test_every_call_has_one(self, site, prefix, base):
        """Below each prefix every call's image stores an event of its type."""
        expected = {}
        for name in CALLS.values():
            event_id = new_id()
            expected[event_id] = name
            event = {"writeKey": KEY, "messageId": event_id, "userId": "u1"}
            answer = fetch(site, event, path=f"{prefix}{base}/{name}")
            assert (answer.status, is_image(answer)) == (200, True)
        stored = site.stored(*expected)

        assert expected == {id_of(event): event["event_type"] for event in stored}

    def test_carelessly_joined_paths_are_found(self, site):
        """Slashes doubled or at the end lead to the image too."""
        event_id = new_id()
        answer = fetch(site, {"writeKey": KEY, "messageId": event_id}, path="//v1//pixel/track/")
        assert (answer.status, is_image(answer)) == (200, True)
        assert len(site.stored(event_id)) == 1

    def test_a_post_is_no_image(self, site):
        """Images are fetched; a POST to their path is 404 as everywhere."""
        assert site.post({"userId": "u1"}, path=TRACK).status == 404

    def test_head_stores_nothing(self, site):
        """HEAD, as link checkers send it, has the image's headers and stores no event."""
        asked, fetched = new_id(), new_id()
        event = {"writeKey": KEY, "messageId": asked}
        for path in (TRACK, "//v1//pixel/track"):
            answer = site.request("HEAD", f"{path}?data={data_of(event)}")
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["Content-Type"] == "image/gif"
        fetch(site, event | {"messageId": fetched})
        site.stored(fetched)

        assert asked not in {id_of(event) for event in site.process.events()}


# In base64 it has the letters in which the alphabets differ.
NAME = "\u00ff\u00fe>?\u00fb\u00ef~~~"


class TestData:
    @pytest.mark.parametrize(
        "encode",
        [
            lambda data: urllib.parse.quote(base64.b64encode(data)),
            lambda data: base64.b64encode(data).decode(),
            lambda data: base64.urlsafe_b64encode(data).decode(),
            lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
            lambda data: urllib.parse.quote(base64.encodebytes(data)),
            urllib.parse.quote,
        ],
        ids=["standard", "unescaped", "url_safe", "unpadded", "with_line_ends", "plain_json"],
    )
    @pytest.mark.parametrize("filling", ["", "x", "xx"])
    def test_both_alphabets_are_read(self, site, encode, filling):
        """`data` is base64 in either alphabet, escaped or padded or not, or JSON as it is."""
        event_id = new_id()
        event = {"writeKey": KEY, "messageId": event_id, "filling": filling, "event": NAME}
        data = encode(json.dumps(event, ensure_ascii=False).encode())

        assert site.get(f"{TRACK}?data={data}").status == 200
        assert site.stored(event_id)[0]["event"] == NAME

    def test_the_documented_example_is_stored(self, new_site):
        """The payload of Segment's documentation is read as it stands there."""
        site = new_site(write_keys=("YOUR_WRITE_KEY",))
        data = (
            "eyJ3cml0ZUtleSI6ICJZT1VSX1dSSVRFX0tFWSIsICJ1c2VySWQiOiAiMDI1cGlrYWNodTAyNSIsICJldmVudCI6"
            "ICJFbWFpbCBPcGVuZWQiLCAicHJvcGVydGllcyI6IHsgICAic3ViamVjdCI6ICJUaGUgRWxlY3RyaWMgRGFpbHki"
            "LCAgICJlbWFpbCI6ICJwZWVrQXRNZUBlbWFpbC5wb2tlIiB9fQ"
        )
        assert site.get(f"{TRACK}?data={data}").status == 200
        (event,) = site.process.wait_for_events(1)

        assert (event["event"], event["subject"]) == ("Email Opened", "The Electric Daily")

    def test_fields_may_be_parameters(self, site):
        """Without `data` the parameters are the event, dots in their names say where they go."""
        event_id = new_id()
        query = (
            f"userId=u1&event=Email Opened&properties.subject=The Daily&properties.a.b=c"
            f"&context.page.title=T&messageId={event_id}&writeKey={KEY}&ip_policy=keep"
        )
        assert site.get(f"{TRACK}?{query.replace(' ', '%20')}").status == 200
        (event,) = site.stored(event_id)

        assert event["event"] == "Email Opened"
        assert (event["subject"], event["a"]) == ("The Daily", {"b": "c"})
        assert event["page_title"] == "T"
        assert "ip_policy" not in event
        assert "writeKey" not in event

    @pytest.mark.parametrize("where", ["query", "header"])
    def test_the_key_may_be_elsewhere(self, site, where):
        """The key is accepted wherever a POST may have it, too."""
        event_id = new_id()
        query = f"data={data_of({'messageId': event_id})}"
        if where == "query":
            answer = site.get(f"{TRACK}?{query}&writeKey={KEY}")
        else:
            answer = site.get(f"{TRACK}?{query}", **{"X-Write-Key": KEY})
        assert answer.status == 200
        assert len(site.stored(event_id)) == 1


class TestSender:
    @pytest.mark.parametrize("path", [TRACK, COMPAT + TRACK], ids=["flat", "compat"])
    def test_a_missing_user_agent_is_the_request_s(self, site, path):
        """Who shows the image is the user, so its user agent counts where none is named."""
        ids = [new_id() for _ in range(4)]
        contexts = [{}, {"context": None}, {"context": {"userAgent": ""}}, {"context": []}]
        for event_id, context in zip(ids, contexts, strict=True):
            event = {"writeKey": KEY, "messageId": event_id, **context}
            fetch(site, event, path=path, **{"User-Agent": FIREFOX})
        for event in site.stored(*ids):
            tracker = event.get("eventn_ctx", event)
            assert tracker["user_agent"] == FIREFOX
            assert tracker["parsed_ua"]["ua_family"] == "Firefox"

    def test_an_event_keeps_its_user_agent(self, site):
        """A user agent that the event names stays."""
        event_id = new_id()
        event = {"writeKey": KEY, "messageId": event_id, "context": {"userAgent": CHROME}}
        fetch(site, event, **{"User-Agent": FIREFOX})
        assert site.stored(event_id)[0]["user_agent"] == CHROME

    def test_a_user_agent_may_have_any_bytes(self, site):
        """A header that is no UTF-8 is stored with a mark in place of what can't be read."""
        event_id = new_id()
        answer = fetch(
            site, {"writeKey": KEY, "messageId": event_id}, **{"User-Agent": b"A\xff\xe9B"}
        )
        assert answer.status == 200
        assert site.stored(event_id)[0]["user_agent"] == "A\ufffd\ufffdB"

    def test_other_paths_leave_the_user_agent_out(self, site):
        """What a server sends has a user agent only if it says so."""
        event_id = new_id()
        site.post({"messageId": event_id}, path="/v1/track", headers={"User-Agent": FIREFOX})
        assert "user_agent" not in site.stored(event_id)[0]

    def test_the_address_is_the_sender_s(self, site):
        """A pixel is fetched by the user's own device, whatever address the event names."""
        event_id = new_id()
        event = {"writeKey": KEY, "messageId": event_id, "context": {"ip": "1.2.3.4"}}
        fetch(site, event, **{"X-Forwarded-For": LONDON})
        assert site.stored(event_id)[0]["source_ip"] == LONDON


class TestRefusals:
    @pytest.mark.parametrize(
        "query",
        [
            "data=%25%25%25",
            "data=A",
            "data=" + base64.b64encode(b"{").decode(),
            "data=" + base64.b64encode(b"[]").decode(),
            "data=" + data_of({}),
            "data=%ff",
            "data=",
            "",
            "ip_policy=keep",
            "a=1&a.b=2",
            "a.b=1&a=2",
            "a.b=1&a.b.c=2",
            "a." * 3_000 + "=1&a=2",
        ],
    )
    def test_what_a_post_refuses_is_400(self, site, query):
        """What is no event is 400, with an image."""
        answer = site.get(f"{TRACK}?{query}", **{"X-Write-Key": KEY})
        assert (answer.status, is_image(answer)) == (400, True)

    def test_deep_names_are_stored(self, site):
        """However many dots a name has, it is stored; some levels deep they are part of a name."""
        event_id = new_id()
        query = f"messageId={event_id}&properties." + "a." * 2_000 + "b=1"
        assert site.get(f"{TRACK}?{query}", **{"X-Write-Key": KEY}).status == 200
        assert len(site.stored(event_id)) == 1

    @pytest.mark.parametrize("key", [None, "wrong"])
    def test_a_wrong_key_is_401(self, site, key):
        """No key or a wrong one is 401, with an image, and stores nothing."""
        event_id = new_id()
        event = {"messageId": event_id} | ({} if key is None else {"writeKey": key})
        answer = fetch(site, event)
        assert (answer.status, is_image(answer)) == (401, True)
        last = new_id()
        fetch(site, {"messageId": last, "writeKey": KEY})
        site.stored(last)
        assert event_id not in {id_of(event) for event in site.process.events()}

    def test_an_event_over_a_limit_is_400(self, new_site):
        """The limits of a body and of an event hold for what is in the query."""
        site = new_site("--body-bytes-max", "1000")
        event = {"writeKey": KEY, "messageId": new_id(), "event": "x" * 2_000}
        answer = fetch(site, event)
        assert (answer.status, is_image(answer)) == (400, True)

    def test_a_target_over_its_limit_is_400(self, site):
        """A head line has at most 8,190 bytes, and the answer to more is not ours to draw."""
        answer = fetch(site, {"writeKey": KEY, "event": "x" * 9_000})
        assert answer.status == 400

    def test_a_full_journal_is_503_and_says_when(self, new_site):
        """While no event can be taken the image comes with 503 and the time to wait."""
        site = new_site("--disk-free-bytes-min", str(1 << 49))
        answer = fetch(site, {"writeKey": KEY, "messageId": new_id()})
        assert (answer.status, is_image(answer)) == (503, True)
        assert int(answer.headers["Retry-After"]) == int(answer.headers["X-RateLimit-Reset"]) > 0

    def test_a_page_of_another_origin_may_read_it(self, site):
        """Its CORS headers are those of a POST's answer."""
        answer = fetch(
            site, {"writeKey": KEY, "messageId": new_id()}, Origin="https://shop.example.com"
        )
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example.com"


def test_pixels_are_client_paths():
    """Every pixel's events come from the user's own device."""
    assert all(target.is_client for target in pixel_paths().values())
