"""`segsrv try` and `POST /debug`: what would become of a request, and nothing is stored."""

import gzip
import json
import re
import sys
import urllib.error
import urllib.request

import pytest

from tests.command import segsrv
from tests.server_process import REPOSITORY
from tests.site import KEY, RAW, new_id, started_site

EVENT = {"type": "track", "event": "Order Completed", "messageId": "m-1", "userId": "u-1"}
FUNCTION = """
def change(event, context):
    if event.get("event") == "bad":
        raise ValueError("no such event")
    return {**event, "seen": True}
"""


def tried(tmp_path, body, *flags, **variables):
    path = tmp_path / "body"
    path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    variables = {"SEGSRV_WRITE_KEY": "web:" + KEY} | variables
    return segsrv("try", str(path), "--data-dir=data", *flags, cwd=tmp_path, **variables)


class TestCommand:
    def test_an_event_that_would_be_stored(self, tmp_path):
        """It says the answer, the format, and where each value goes; nothing is written."""
        done = tried(tmp_path, EVENT, "--key-id=web", "--path=/v1/track")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("accepted: 200, 1 event, key web, format flat\n")
        assert 'ids.ajs_user_id = "u-1"  from userId' in done.stdout
        assert KEY not in done.stdout
        assert not (tmp_path / "data").exists()

    @pytest.mark.parametrize(
        ("body", "flags", "status", "code"),
        [
            (EVENT, (), 401, "unauthorized"),
            (EVENT, ("--key=nobody's",), 401, "unauthorized"),
            (EVENT, ("--key-id=web", "--path=/v2/nothing"), 404, "not_found"),
            (b'{"batch":', ("--key-id=web",), 400, "invalid_json"),
            ({"a": 1}, ("--key-id=web",), 400, "missing_batch"),
            (b"", ("--key-id=web",), 400, "invalid_json"),
        ],
    )
    def test_a_request_that_would_be_refused(self, tmp_path, body, flags, status, code):
        """It says with which answer and why, and ends with 1."""
        done = tried(tmp_path, body, "--json", *flags)
        verdict = json.loads(done.stdout)
        assert (verdict["status"], verdict["code"], done.returncode) == (status, code, 1)

    def test_items_that_would_be_set_aside(self, tmp_path):
        """Their neighbours are stored, and it ends with 1 all the same."""
        done = tried(tmp_path, {"batch": [EVENT, 7]}, "--key-id=web")
        assert done.returncode == 1
        assert "accepted: 200, 2 events" in done.stdout
        assert "set aside: not_an_object" in done.stdout

    def test_a_secret_in_the_body_is_not_shown(self, tmp_path):
        """Neither where the key belongs nor anywhere else."""
        body = EVENT | {"writeKey": KEY, "properties": {"note": f"my {KEY}"}}
        for flags in ((), ("--json",)):
            done = tried(tmp_path, body, "--path=/v1/t", "--format=all", *flags)
            assert done.returncode == 0, done.stderr
            assert KEY not in done.stdout
            assert "my [key web]" in done.stdout

    def test_no_name_makes_a_line_of_its_own(self, tmp_path):
        """A client can't have the output say something else."""
        body = EVENT | {"properties": {"x\nrefused: 401 forged": 1}}
        done = tried(tmp_path, body, "--key-id=web", "--path=/t")
        assert not [line for line in done.stdout.splitlines() if line.startswith("refused")]

    def test_a_query_and_a_wrong_key(self, tmp_path):
        """Policies and key of the query count; a wrong key is told before a broken body."""
        path = f"/v1/t?ip_policy=strict&token={KEY}"
        done = tried(tmp_path, EVENT, f"--path={path}", "--address=1.2.3.4", "--json")
        (item,) = json.loads(done.stdout)["items"]
        assert item["flat"]["event"]["source_ip"] == "1.2.3.1"
        done = tried(tmp_path, b"{", "--key=nobody's", "--json")
        assert json.loads(done.stdout)["code"] == "unauthorized"

    def test_an_event_that_is_nested_too_deeply(self, tmp_path):
        """It is told as such, and its neighbours are shown."""
        deep = b'{"a":' * 600 + b"1" + b"}" * 600
        body = b'{"batch":[{"type":"track","properties":' + deep + b'},{"type":"track"}]}'
        done = tried(tmp_path, body, "--key-id=web", "--json")
        first, second = (item["flat"] for item in json.loads(done.stdout)["items"])
        assert first["code"] == "nested_too_deeply"
        assert second["event"]["event_type"] == "track"

    def test_all_formats(self, tmp_path):
        """Each format is shown as it would be stored."""
        done = tried(tmp_path, EVENT, "--key-id=web", "--format=all", "--path=/t", "--json")
        (item,) = json.loads(done.stdout)["items"]
        assert list(item) == ["flat", "compat", "segment"]
        assert item["segment"]["event"]["messageId"] == "m-1"
        assert item["compat"]["event"]["eventn_ctx"]["event_id"] == "m-1"

    def test_gzip_and_standard_input(self, tmp_path):
        """A compressed body is unpacked, as the server does."""
        done = tried(tmp_path, gzip.compress(json.dumps(EVENT).encode()), "--key-id=web")
        assert done.returncode == 0, done.stderr
        done = tried(tmp_path, gzip.compress(json.dumps(EVENT).encode())[:-9], "--key-id=web")
        assert done.returncode == 2
        assert "is no whole gzip" in done.stderr

    def test_what_a_terminal_would_act_on_is_escaped(self, tmp_path):
        """Nothing that a client sends moves the cursor."""
        done = tried(tmp_path, EVENT | {"event": "\x1b[2J"}, "--key-id=web", "--path=/t")
        assert "\x1b" not in done.stdout

    def test_functions(self, tmp_path):
        """What each sink's functions make of the events is shown, and where one fails."""
        (tmp_path / "mine.py").write_text(FUNCTION)
        body = {"batch": [EVENT, EVENT | {"event": "bad"}]}
        options = {"SEGSRV_TRANSFORM": "mine:change", "PYTHONPATH": ":".join(sys.path)}
        done = tried(tmp_path, body, "--key-id=web", "--json", **options)
        sinks = json.loads(done.stdout)["sinks"]
        (made,) = sinks.values()
        assert [event["seen"] for event in made["events"]] == [True]
        (fault,) = made["faults"]
        assert fault["number"] == 1
        assert "no such event" in fault["message"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debug")
    with started_site(folder / "data", "--ops-listen=127.0.0.1:0") as site:
        yield site


@pytest.fixture(scope="module")
def ask(site):
    (address,) = re.findall(r"live page +(http://\S+)/live\n", site.process.stdout)
    token = (site.process.data_dir / "state" / "ops-token").read_text().strip()

    def ask(body, query="", *, token=token, **headers):
        request = urllib.request.Request(
            f"{address}/debug?{query}",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}"} | headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return ask


class TestDebug:
    def test_it_tells_and_stores_nothing(self, site, ask):
        """The answer has what the public port would say, and what would be stored."""
        event_id = new_id()
        status, told = ask(EVENT | {"messageId": event_id, "writeKey": KEY}, "path=/v1/t")
        assert status == 200
        verdict = told["verdict"]
        assert (verdict["status"], verdict["output"]) == (200, "flat")
        assert verdict["items"][0]["flat"]["event"]["eventn_ctx_event_id"] == event_id
        after = site.post(EVENT | {"messageId": new_id()}, path=RAW + "/v1/t")
        assert after.status == 200
        assert event_id not in str(site.process.events())

    def test_the_example_of_the_page(self, tmp_path):
        """docs/commands.md shows how its output begins."""
        page = (REPOSITORY / "docs" / "commands.md").read_text("utf-8")
        body, flags, shown = re.search(
            r"\$ echo '(.*)' \| segsrv try - (.*)\n((?:.*\n)*?)```", page
        ).groups()
        done = tried(tmp_path, body.encode(), *flags.split())
        assert done.stdout.startswith(shown)

    def test_a_refusal_is_told(self, ask):
        """A wrong key, a broken body: the verdict says so, and the answer is a 200."""
        status, told = ask(b'{"batch":', "path=/v1/batch", **{"X-Write-Key": KEY})
        assert (status, told["verdict"]["code"]) == (200, "invalid_json")
        status, told = ask(EVENT, "path=/v1/t", **{"X-Write-Key": "nobody's"})
        assert (status, told["verdict"]["status"]) == (200, 401)
        status, told = ask(b"x" * 5_000_000, **{"X-Write-Key": KEY})
        assert (status, told["verdict"]["code"]) == (200, "body_too_large")

    def test_who_is_not_signed_in(self, ask):
        """Nobody learns anything without the token, nor on the public port."""
        status, told = ask(EVENT, token="wrong")
        assert status == 401
        assert "verdict" not in told

    def test_not_on_the_public_port(self, site):
        """There nothing is at /debug."""
        assert site.post(EVENT, path="/debug").status == 404

    def test_a_format_that_is_none(self, ask):
        """It is refused with those that there are."""
        status, told = ask(EVENT, "format=xml")
        assert status == 400
        assert "expected one of all, flat, compat, segment" in told["message"]
