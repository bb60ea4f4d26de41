"""The benchmarks' servers, generators and report do what they say."""

import asyncio
import dataclasses
import itertools
import os
import random
import shutil
import sys

import maxminddb
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.server_process import REPOSITORY

BENCH = REPOSITORY / "bench"
PINS = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes to cores")
ANSWER = b'{"status":"ok"}'


@pytest.fixture
def bench(monkeypatch):
    """Make the benchmarks importable; return what imports one of them."""
    monkeypatch.syspath_prepend(BENCH)
    return __import__


async def run(program, *arguments):
    process = await asyncio.create_subprocess_exec(
        program, *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout=90)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, output.decode()


def result_of(output):
    return orjson.loads(output.partition("RESULT ")[2].splitlines()[0])


class Seen:
    """A server that keeps the forwarded address of each request, and its user agent."""

    def __init__(self):
        self.addresses, self.agents = [], []

    async def answer(self, request):
        await request.read()
        self.addresses.append(request.headers["X-Forwarded-For"])
        self.agents.append(request.headers["User-Agent"])
        return web.Response(body=ANSWER, content_type="application/json")

    def server(self):
        app = web.Application()
        app.router.add_post("/t", self.answer)
        return TestServer(app, host="127.0.0.1")


def write_request(folder, body=b"{}"):
    head = (
        b"POST /t HTTP/1.1\r\nHost: h\r\nUser-Agent: App/13131313\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nContent-Length: %d\r\n\r\n"
    )
    (folder / "00000.http").write_bytes(head % len(body) + body)


class TestGenerators:
    @pytest.mark.parametrize("generator", ["sender.py", "open_loop.py", "wrk"])
    async def test_new_heads_are_all_different(self, tmp_path, generator):
        """With new heads, no two requests come from the same forwarded address."""
        if generator == "wrk" and not shutil.which("wrk"):
            pytest.skip("wrk is not installed")
        write_request(tmp_path)
        seen = Seen()
        async with seen.server() as server:
            if generator == "wrk":
                url = f"http://127.0.0.1:{server.port}/"
                script = ("--script", BENCH / "wrk.lua", url, "--", tmp_path, 5)
                code, output = await run("wrk", "-t", 1, "-c", 2, "-d", "1s", *script)
            else:
                options = ["--connections", 2, "--seconds", 0.3, "--new-heads", 5]
                options += ["--rate", 200] if generator == "open_loop.py" else []
                script = (BENCH / generator, server.port, tmp_path, *options)
                code, output = await run(sys.executable, *script)
        result = result_of(output)
        assert code == 0
        assert (result["failed"], result["broken"]) == (0, 0)
        assert len(set(seen.addresses)) == len(seen.addresses) >= result["answered"] > 10
        assert all(address.startswith("81.") for address in seen.addresses)

    async def test_user_agents_differ_where_asked(self, tmp_path):
        """A number in the user agent changes with each request."""
        write_request(tmp_path)
        seen = Seen()
        async with seen.server() as server:
            options = ("--rate", 200, "--seconds", 0.2, "--new-heads", 5)
            options = (*options, "--new-agents", "13131313", "--connections", 2)
            script = (BENCH / "open_loop.py", server.port, tmp_path, *options)
            code, _ = await run(sys.executable, *script)
        assert code == 0
        assert len(set(seen.agents)) == len(seen.agents) > 10

    async def test_a_server_that_stands_still_is_seen_by_all_it_keeps_waiting(self, tmp_path):
        """Times count from when a request was due, not from when it could be sent."""
        write_request(tmp_path)
        first = asyncio.Event()

        async def answer(request):
            await request.read()
            if not first.is_set():
                first.set()
                await asyncio.sleep(0.5)
            return web.Response(body=ANSWER, content_type="application/json")

        app = web.Application()
        app.router.add_post("/t", answer)
        async with TestServer(app, host="127.0.0.1") as server:
            options = ("--rate", 100, "--seconds", 1, "--connections", 1)
            script = (BENCH / "open_loop.py", server.port, tmp_path, *options)
            code, output = await run(sys.executable, *script)
        result = result_of(output)
        assert code == 0
        assert result["answered"] == 100
        assert result["max_ms"] >= 500
        # A fifth of all was due in the first 200 ms of the half second, and waited 300 ms or more.
        assert result["p99_ms"] >= 300
        assert result["stalls_count"] >= 1


@PINS
class TestServers:
    @pytest.mark.parametrize("name", ["raw", "disk", "naive"])
    def test_what_is_compared_answers_and_stores(self, bench, tmp_path, name):
        """The bare protocol, commits alone and FastAPI answer with 200 and lose nothing."""
        trial, load, contenders = bench("trial"), bench("load"), bench("contenders")
        cores = sorted(os.sched_getaffinity(0))
        plan = trial.Plan(
            generator="sender",
            server_core=cores[0],
            generator_core=cores[-1],
            connections=4,
            seconds=0.3,
            warm_up_s=0.1,
            scratch=tmp_path,
        )
        shape = dataclasses.replace(
            load.make_shapes(1, single_endpoint="/v1/t")["single"], prepared=20
        )
        requests = load.prepare(
            shape, path=contenders.PATH, write_key=contenders.WRITE_KEY, event_bytes=0, seed=1
        )
        contender = getattr(contenders, name)()
        sample = trial.measure(plan, shape, requests, contender, 1)
        assert sample.problems == []
        assert sample.events_acknowledged > 20
        stored = None if name == "raw" else sample.events_acknowledged
        assert sample.events_stored == stored
        assert list(tmp_path.iterdir()) == []

    def test_every_address_of_the_load_is_found(self, bench, tmp_path):
        """The database of places knows the payloads' addresses and those of new heads."""
        payloads, addresses = bench("payloads"), bench("addresses")
        path = bench("locations").write_database(tmp_path / "places.mmdb")
        request = b"POST / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"
        new = itertools.islice(addresses.with_new_heads([request], 7), 100)
        asked = [client.address for client in payloads.make_clients(random.Random(1), 100)]
        asked += [head.split(b": ")[1].split(b"\r\n")[0].decode() for head in new]
        with maxminddb.open_database(path) as database:
            assert all(database.get(address)["city"]["names"]["en"] for address in asked)


class TestLatency:
    def test_stalls_are_told_apart(self, bench):
        """A stall is the disk's or the generator's where half of it is covered by theirs."""
        stalls = [[0.0, 0.1], [1.0, 1.1], [2.0, 2.1], [3.0, 4.0]]
        disk, generator = [[0.02, 0.09], [3.1, 3.2]], [[1.0, 1.06]]
        counts = bench("latency").whose(stalls, disk, generator)
        assert counts == {"server": 2, "disk": 1, "generator": 1}

    def test_percentiles_are_near(self, bench):
        """The histogram's percentiles are within 2 % of the true ones."""
        histogram = bench("open_loop").Histogram()
        for number in range(1, 10_001):
            histogram.add(number / 1e4)
        assert histogram.ms(0.5) == pytest.approx(500, rel=0.02)
        assert histogram.ms(0.99) == pytest.approx(990, rel=0.02)
        assert histogram.summary()["max_ms"] == 1000

    async def test_the_probe_reports_and_leaves_no_file(self, tmp_path):
        """The probe of the disk ends with its input and says how long syncs took."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(BENCH / "disk_probe.py"),
            str(tmp_path / "probe"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert await process.stdout.readline() == b"ready\n"
        output, _ = await asyncio.wait_for(process.communicate(b""), timeout=30)
        assert result_of(output.decode())["max_ms"] >= 0
        assert list(tmp_path.iterdir()) == []


class TestSoak:
    def samples(self, bench, mib_at):
        sample = bench("soak").Sample
        return [sample(at_s=second, pid=1, mib=mib_at(second)) for second in range(600)]

    def test_flat_memory_is_no_fault(self, bench):
        """Memory that rises while caches fill and then stays is flat."""
        samples = self.samples(bench, lambda second: min(100, 50 + second))
        said, faults = bench("soak").judge(samples, 600)
        assert faults == []
        assert said[0].endswith("flat")

    def test_growing_and_large_memory_are_faults(self, bench):
        """Memory that goes on rising, or passes the limit, is named."""
        _, faults = bench("soak").judge(self.samples(bench, lambda second: 50 + second / 20), 600)
        assert [fault.split(" by ")[0] for fault in faults] == ["process 1 grew"]
        _, faults = bench("soak").judge(self.samples(bench, lambda _second: 200.0), 600)
        assert [fault.split(" took ")[0] for fault in faults] == ["process 1"]

    def test_every_request_can_be_varied(self, bench):
        """All requests, batches too, have the address and the number that a generator varies."""
        soak, addresses = bench("soak"), bench("addresses")
        requests = [request.render("h") for request in soak.mixed_requests()]
        digits = soak.AGENT_NUMBER.encode()
        made = addresses.with_new_heads(requests, 3, digits)
        for before, after in zip(requests, made, strict=False):
            assert digits in before
            assert digits not in after


class TestReport:
    def sample(self, bench, server, rate, **more):
        kwargs = {"round": 1, "shape": "single event", "server": server, "meaning": "x"}
        kwargs |= {"connections": 64, "events_per_s": rate, "cpu_us": 1e6 / rate} | more
        return dataclasses.asdict(bench("trial").Sample(**kwargs))

    def report(self, bench):
        rows = [
            self.sample(bench, "orjson loads+dumps", 300_000.0),
            self.sample(bench, "baseline", 20_000.0),
            self.sample(
                bench,
                "fsync",
                30_000.0,
                meaning="on stable storage",
                events_acknowledged=7,
                events_stored=7,
                readable_after_s=0.1,
            ),
        ]
        facts = {"python": "P", "cpu": "C", "date": "2026-01-02 03:04 UTC", "commit": "abc"}
        parts = {"saturation": rows}
        return {"machine": facts, "rounds": 1, "parts": parts, "problems": []}

    def test_the_readme_gets_what_was_measured(self, bench, tmp_path):
        """Only what stands between the marks changes, and each figure says what its 200 means."""
        page = bench("report_page")
        readme = tmp_path / "README.md"
        readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
        page.write_readme(readme, self.report(bench))
        text = readme.read_text()
        assert text.startswith(f"before\n{page.BEGIN}\n| one core")
        assert text.endswith(f"{page.END}\nafter\n")
        assert "old" not in text
        cells = ["segsrv, one a request", "30,000", "33.3", "1.50", "0.10", "on stable storage"]
        assert f"| {' | '.join([*cells, '0.1 s', '0'])} |" in text

    def test_a_page_without_a_place_for_results_is_left_alone(self, bench, tmp_path):
        """A file without the marks is refused, not changed."""
        readme = tmp_path / "README.md"
        readme.write_text("nothing\n")
        with pytest.raises(ValueError, match="marks"):
            bench("report_page").write_readme(readme, self.report(bench))
        assert readme.read_text() == "nothing\n"

    def test_the_projects_readme_has_such_a_table(self, bench):
        """What the README shows was made by the report, in its present form."""
        page = bench("report_page")
        text = (REPOSITORY / "README.md").read_text()
        table = text.partition(page.BEGIN)[2].partition(page.END)[0].strip().splitlines()
        made = page.readme_table(self.report(bench)).splitlines()
        assert table[:2] == made[:2]
        assert [row.split(" | ")[0] for row in table[2:4]] == [
            "| segsrv, one a request",
            "| segsrv, 100 a request",
        ]
        assert all(len(row.split(" | ")) == len(made[0].split(" | ")) for row in table[2:4])

    def test_aims_are_judged_within_rounds(self, bench):
        """A ratio is taken to the baseline of the same round, and set beside its aim."""
        text = bench("aims").table(self.report(bench))
        assert "| singles, heads known ÷ empty aiohttp handler | 1.50 (1.50 to 1.50) |" in text
        assert text.splitlines()[2].endswith("| ≥ 1.4 | yes |")

    @PINS
    async def test_a_short_run(self, tmp_path):
        """The command measures, checks what was stored, and writes a page that needs nothing."""
        times = "--seconds 0.3 --warm-up 0.1 --micro-seconds 0.001".split()
        folders = ("--scratch", tmp_path, "--out", tmp_path)
        options = ("--quick", "--generator", "sender", "--only", "micro", "--only", "workers")
        script = (BENCH / "report.py", *options, *times)
        code, output = await run(sys.executable, *script, *folders)
        assert code == 0, output
        assert "no lost, doubled or unreadable event" in output
        report = orjson.loads((tmp_path / "report.json").read_bytes())
        assert list(report["parts"]) == ["micro", "workers"]
        workers = [row for row in report["parts"]["workers"] if "worker" in row["server"]]
        assert [row["server"] for row in workers] == ["1 worker", "2 workers"] * 2
        assert all(row["events_stored"] == row["events_acknowledged"] > 0 for row in workers)
        page = (tmp_path / "report.html").read_text()
        assert "<svg" in page
        assert not any(text in page for text in ("src=", "href=", "url(", "@import"))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]

    @PINS
    async def test_latency_is_measured_beside_the_disks(self, tmp_path):
        """The command for latency sends at a share of saturation, and finds every event stored."""
        options = "--share 0.5 --rounds 1 --seconds 0.3 --warm-up 0.1 --generator sender".split()
        script = (BENCH / "latency.py", *options, "--scratch", tmp_path)
        code, output = await run(sys.executable, *script)
        assert code == 0, output
        assert "| single event | 50% |" in output
        assert "its events are stored" in output
        assert list(tmp_path.iterdir()) == []

    async def test_cost_by_size_is_told(self):
        """The command for linear cost measures all sizes, and checks their lines."""
        script = (BENCH / "linear.py", "--rounds", 1, "--seconds", 0.001)
        code, output = await run(sys.executable, *script)
        assert code == 0
        assert "| 1,000 |" in output
        assert "| 10,000 |" in output
