"""The benchmarks measure what they say: payloads, locust users, and the check for lost events."""

import asyncio
import os
import random
import re
import sys
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def payloads(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import payloads

    return payloads


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import stored

    return stored


class TestPayloads:
    def test_single_events_are_tracks_of_about_a_kilobyte(self, payloads):
        """A browser event is a JSON object with the fields that the SDK sends, around 1 KB."""
        rng = random.Random(7)
        client = payloads.make_clients(rng, 1)[0]
        body = payloads.browser_event(rng, client, write_key="key")
        event = orjson.loads(body)

        assert 800 < len(body) < 1300
        assert event["type"] == "track"
        assert event["writeKey"] == "key"
        assert event["context"]["userAgent"] == client.user_agent
        assert event["context"]["page"].keys() == {"path", "referrer", "search", "title", "url"}

    def test_no_two_events_have_the_same_id(self, payloads):
        """Every event, alone or in a batch, has an id of its own in its SDK's form."""
        rng = random.Random(7)
        clients = payloads.make_clients(rng, 50)
        singles = [orjson.loads(payloads.browser_event(rng, client)) for client in clients]
        batches = [orjson.loads(payloads.server_batch(rng, clients))["batch"] for _ in range(5)]
        ids = [event["messageId"] for events in [singles, *batches] for event in events]

        assert len(set(ids)) == len(ids) == 50 + 5 * 100
        assert ids[0].startswith("ajs-next-")
        assert ids[-1].startswith("node-next-")

    def test_padding_gives_the_exact_size(self, payloads):
        """With a size, every event has just that many bytes."""
        rng = random.Random(7)
        clients = payloads.make_clients(rng, 10)
        batch = orjson.loads(payloads.server_batch(rng, clients, events=20, event_bytes=3000))

        assert len(payloads.browser_event(rng, clients[0], event_bytes=2500)) == 2500
        assert {len(orjson.dumps(event)) for event in batch["batch"]} == {3000}

    def test_same_seed_and_clock_give_the_same_bytes(self, payloads):
        """A run can be repeated with the very same requests."""

        def render():
            rng = random.Random(3)
            clients = payloads.make_clients(rng, 20)
            return payloads.server_batch(rng, clients, events=5, now_ms=1_790_000_000_000)

        assert render() == render()


class TestAbuse:
    @pytest.fixture
    def bodies(self, monkeypatch):
        monkeypatch.syspath_prepend(BENCH)
        import abuse_bodies

        return abuse_bodies

    def test_no_body_is_over_the_limit(self, bodies):
        """What is sent decompresses to at most 4 MiB, and to nearly that where it can."""
        for unit in bodies.UNITS:
            sizes = [
                len(bodies.body_of(bodies.Attack(unit=unit, frame=frame, key="body"), "key"))
                for frame in bodies.FRAMES
            ]
            assert max(sizes) <= bodies.BODY_BYTES_MAX
            assert sizes[bodies.FRAMES.index("array")] > 0.95 * bodies.BODY_BYTES_MAX

    @pytest.mark.parametrize("frame", ["field", "batch", "context", "integrations", "sentAt"])
    def test_bodies_without_a_flaw_are_json(self, bodies, frame):
        """Without a tail that breaks it, a body is the JSON that it is meant to be."""
        attack = bodies.Attack(unit="objects", frame=frame, key="body", size=60_000)
        read = orjson.loads(bodies.body_of(attack, "key"))
        assert read["writeKey"] == "key"

    def test_a_search_can_be_repeated(self, bodies):
        """The same seed gives the same attacks."""

        def attacks():
            rng = random.Random(5)
            made = [bodies.random_attack(rng, has_key=True) for _ in range(20)]
            return [*made, *(bodies.changed(attack, rng, has_key=True) for attack in made)]

        assert attacks() == attacks()

    async def test_a_short_run(self, tmp_path):
        """The command measures known and found bodies beside the steady client, and says how."""
        options = "--tries 2 --try-s 0.1 --worst 1 --rounds 1 --seconds 0.3 --rest-s 0".split()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(BENCH / "abuse.py"),
            *options,
            "--scratch",
            str(tmp_path),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        text = printed.decode()
        rows = [line for line in text.splitlines() if line.startswith("| ") and " ms" not in line]
        # Six known ones, and one found with a key and one without.
        assert len(rows) == 8, text
        assert "anonymous memory: at most " in text
        # Times and memory of so short a run on a busy machine are not this test's business.
        faults = [line for line in text.splitlines() if line.startswith("FAULT")]
        assert all("p99" in fault or "memory" in fault for fault in faults), text
        assert process.returncode == bool(faults)


class TestStoredEvents:
    @staticmethod
    def write(folder, ids):
        lines = [orjson.dumps({"eventn_ctx_event_id": one}) + b"\n" for one in ids]
        (folder / "part.ndjson").write_bytes(b"".join(lines))

    def test_all_acknowledged_requests_are_found(self, stored, tmp_path):
        """Requests that were sent twice and stored twice are no fault."""
        self.write(tmp_path, ["a", "b", "c", "d", "a", "b"])

        expected = (6, [])
        assert expected == stored.check(
            tmp_path, [("a", "b"), ("c", "d")], acknowledged=3, in_flight=0
        )

    @pytest.mark.parametrize(
        ("ids", "in_flight", "fault"),
        [
            pytest.param(["a", "b"], 0, "1 acknowledged requests are not stored", id="lost"),
            pytest.param(["a", "b", "c"], 0, "stored in part: 0 to 1 times", id="torn"),
            pytest.param(["a", "b", "c", "d"] * 2, 1, "1 requests stored more often", id="twice"),
            pytest.param(["a", "b", "c", "d", "x"], 0, "ids nobody sent: 'x'", id="foreign"),
        ],
    )
    def test_faults_are_named(self, stored, tmp_path, ids, in_flight, fault):
        """Lost, torn, doubled and foreign events each are reported."""
        self.write(tmp_path, ids)
        requests = [("a", "b"), ("c", "d")]
        _, problems = stored.check(tmp_path, requests, acknowledged=2, in_flight=in_flight)

        assert any(fault in problem for problem in problems)

    def test_unreadable_lines_are_named(self, stored, tmp_path):
        """A line that is cut off is a fault, even if it would parse."""
        (tmp_path / "part.ndjson").write_bytes(b'{"eventn_ctx_event_id":"a"}\n{"eve\n{}')
        _, problems = stored.check(tmp_path, [("a",)], acknowledged=1, in_flight=0)

        assert [text.split()[0] for text in problems] == ["part.ndjson:2", "part.ndjson:3"]


async def run(*arguments):
    """Run Python with *arguments*; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout=90)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, output.decode()


async def run_locust(url, *arguments):
    """Run locust without its page for two seconds; return its exit code and output."""
    return await run(
        *("-m", "locust", "--locustfile", str(BENCH / "locustfile.py"), "--headless"),
        *("--users", "4", "--spawn-rate", "100", "--run-time", "2s", "--stop-timeout", "10"),
        *("--only-summary", "--host", url, "--write-key", "key"),
        *arguments,
    )


def summary_of(output):
    line = r"^events: (\d+)  events/s: ([\d.]+).* failures: (\d+) "
    found = re.search(line, output, re.MULTILINE)
    assert found, output
    return int(found[1]), float(found[2]), int(found[3])


class TestLocust:
    async def test_summary_counts_the_events_that_the_server_saw(self):
        """The closing line's events are those of single requests and batches together."""
        seen = []

        async def answer(request):
            body = orjson.loads(await request.read())
            assert request.headers["Authorization"] == "Basic a2V5Og=="
            assert body["writeKey"] == "key"
            seen.append(len(body.get("batch", [body])))
            return web.json_response({"status": "ok"})

        app = web.Application()
        app.router.add_post("/collect/t", answer)
        app.router.add_post("/collect/batch", answer)
        async with TestServer(app, host="127.0.0.1") as server:
            code, output = await run_locust(
                str(server.make_url("/")).rstrip("/"),
                *("--path", "/collect/", "--single-endpoint", "/t", "--batch-endpoint", "/batch"),
                *("--batch-events", "7", "MixedUser"),
            )
        events, events_per_s, failures = summary_of(output)

        assert code == 0, output
        assert {1, 7} == set(seen)
        assert (events, failures) == (sum(seen), 0)
        assert events_per_s > 0

    async def test_only_200_with_a_json_object_is_success(self):
        """A 200 with a list, or another 2xx, is a failure and counts no events."""
        answers = [(200, b"[]"), (200, b""), (204, b""), (202, b'{"status":"ok"}')]
        seen = []

        async def answer(request):
            await request.read()
            status, body = answers[len(seen) % len(answers)]
            seen.append(status)
            return web.Response(status=status, body=body, content_type="application/json")

        app = web.Application()
        app.router.add_post("/api/v1/segment", answer)
        async with TestServer(app, host="127.0.0.1") as server:
            code, output = await run_locust(str(server.make_url("/")).rstrip("/"), "BrowserUser")
        events, _, failures = summary_of(output)

        assert code == 1, output
        assert (events, failures) == (0, len(seen))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")
class TestSaturate:
    async def test_no_acknowledged_event_is_lost(self, tmp_path):
        """A short run against the real server stores just what was acknowledged, and says so."""
        report = tmp_path / "report.json"
        code, output = await run(
            *(str(BENCH / "saturate.py"), "--rounds", "1", "--seconds", "0.5", "--warm-up", "0.2"),
            *("--shape", "batch", "--batch-events", "10", "--generator", "sender"),
            *("--scratch", str(tmp_path), "--json", str(report)),
        )

        assert code == 0, output
        assert "loss 0: " in output
        samples = orjson.loads(report.read_bytes())["samples"]
        assert [one["server"] for one in samples] == ["orjson loads+dumps", "baseline", "fsync"]
        assert samples[2]["events_stored"] == samples[2]["events_acknowledged"] > 0


class TestDedup:
    async def test_it_measures_what_is_right(self, tmp_path):
        """A short run fills an index and SQLite, checks every judgement, and leaves no file."""
        command = [BENCH / "dedup.py", "--ids", "20000", "--scratch", tmp_path]
        bench = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await bench.communicate()
        assert bench.returncode == 0
        assert len(re.findall(r"\| index \||\| SQLite \|", output.decode())) == 6
        assert list(tmp_path.iterdir()) == []


class TestSinks:
    async def test_all_events_are_found_after_both_halves(self, tmp_path):
        """A short run delivers a backlog to files in both ways, counts it, and leaves no file."""
        options = "--sink file --events 2000 --rounds 1 --shape single".split()
        code, output = await run(str(BENCH / "sinks.py"), *options, "--scratch", str(tmp_path))
        # What so short a run takes on a busy machine is not this test's business.
        assert code == 0 or "FAULT: more than" in output, output
        assert re.search(r"^\| file \| [\d,]+ \| .* \| 2,000 found \|$", output, re.MULTILINE)
        assert list(tmp_path.iterdir()) == []

    def test_lost_and_doubled_events_are_faults(self, monkeypatch):
        """Ids that are missing, there twice or nobody's are told apart."""
        monkeypatch.syspath_prepend(BENCH)
        from sinks import difference

        assert difference(["a", "b"], ["b", "a"]) == ""
        assert difference(["a", "b"], ["a"]) == "of 2 events 1 are lost, 0 doubled, 0 foreign"
        assert difference(["a", "b"], ["b", "a", "a"]).endswith(" 0 are lost, 1 doubled, 0 foreign")
        assert difference(["a"], ["x"]) == "of 1 events 1 are lost, 0 doubled, 1 foreign"
