"""Prepared requests, and the generators that send them: `wrk` where it is installed, else ours."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import payloads
from machine import pinned

HERE = Path(__file__).parent

# Beyond its time, a generator gets this long to connect, to drain and to report.
GENERATOR_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of request: how many events it carries and how many different ones are prepared."""

    name: str
    endpoint: str
    events: int
    prepared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that is ready to send, and the ids of its events."""

    path: str
    headers: dict[str, str]
    body: bytes
    event_ids: tuple[str, ...]

    def render(self, host: str) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("ascii") + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a generator did.

    `acknowledged` requests were answered with 200, `failed` ones with something else, `broken`
    ones not at all though they should have been. Up to `in_flight` more may have reached the
    server without anybody waiting for the answer, because the generator hangs up when its time is
    over.
    """

    acknowledged: int
    failed: int
    broken: int
    in_flight: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_share: float


def make_shapes(
    batch_events: int, *, single_endpoint: str = "", batch_endpoint: str = ""
) -> dict[str, Shape]:
    single = Shape(name="single event", endpoint=single_endpoint, events=1, prepared=2048)
    # Large batches are fewer, so that the generator's memory stays small.
    prepared = max(8, min(64, 6_400 // batch_events))
    batch = Shape(
        name=f"batch of {batch_events}",
        endpoint=batch_endpoint,
        events=batch_events,
        prepared=prepared,
    )
    return {"single": single, "batch": batch}


def prepare(
    shape: Shape,
    *,
    path: str,
    write_key: str,
    event_bytes: int,
    seed: int,
    is_shared: bool = True,
) -> list[Prepared]:
    rng = random.Random(seed)
    clients = payloads.make_clients(rng)
    authorization = "Basic " + b64encode(f"{write_key}:".encode()).decode()
    requests = []
    for _ in range(shape.prepared):
        client = rng.choice(clients)
        if shape.events == 1:
            body = payloads.browser_event(rng, client, write_key=write_key, event_bytes=event_bytes)
            content_type, user_agent = "text/plain", client.user_agent
        else:
            body = payloads.server_batch(
                rng,
                clients,
                events=shape.events,
                write_key=write_key,
                event_bytes=event_bytes,
                is_shared=is_shared,
            )
            content_type, user_agent = "application/json", "analytics-node-next/latest"
        message = orjson.loads(body)
        headers = {
            "Authorization": authorization,
            "Content-Type": content_type,
            "User-Agent": user_agent,
        }
        if shape.events == 1:
            # A backend's batches come from the backend, whatever users they are of.
            headers["X-Forwarded-For"] = client.address
        requests.append(
            Prepared(
                path=path.rstrip("/") + shape.endpoint or "/",
                headers=headers,
                body=body,
                event_ids=tuple(e["messageId"] for e in message.get("batch", [message])),
            )
        )
    return requests


def write_requests(requests: list[Prepared], folder: Path, port: int) -> None:
    folder.mkdir(parents=True)
    for index, request in enumerate(requests):
        (folder / f"{index:05}.http").write_bytes(request.render(f"127.0.0.1:{port}"))


def pick_generator(wanted: str) -> str:
    """Resolve `auto` to `wrk` if it is installed, else to our own sender."""
    if wanted == "auto":
        return "wrk" if shutil.which("wrk") else "sender"
    if wanted == "wrk" and not shutil.which("wrk"):
        raise SystemExit("wrk is not installed; install it or choose --generator sender")
    return wanted


def send(
    generator: str,
    *,
    port: int,
    folder: Path,
    connections: int,
    seconds: float,
    core: int,
    is_json: bool = True,
    new_heads: bool = False,
) -> Load:
    """Send the requests in *folder* to the port of 127.0.0.1 and wait until that is over.

    With *new_heads* every request comes from a forwarded address of its own, so that no head was
    seen before. Answers are JSON unless *is_json* says otherwise.
    """
    # Where to start among the addresses: two runs against one server share hardly any.
    start = [str(random.SystemRandom().randrange(1 << 24))] if new_heads else []
    if generator == "wrk":
        # Wrk counts whole seconds only.
        duration = f"{max(1, round(seconds))}s"
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", duration, "--timeout", "10s", "--script", str(HERE / "wrk.lua")]
        command += [f"http://127.0.0.1:{port}/", "--", str(folder), *start]
    else:
        command = [sys.executable, str(HERE / "sender.py"), str(port), str(folder)]
        command += ["--connections", str(connections), "--seconds", str(seconds)]
        command += ["--new-heads", *start] if start else []
        command += [] if is_json else ["--any-body"]
    cpu_before = _children_cpu_s()
    with pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate(timeout=seconds + GENERATOR_GRACE_S)
    finally:
        process.kill()
        process.wait()
    result = result_line(output, command)
    result.setdefault("cpu_s", _children_cpu_s() - cpu_before)
    return Load(
        acknowledged=result["answered"] - result["failed"],
        failed=result["failed"],
        broken=result["broken"],
        in_flight=connections if generator == "wrk" else 0,
        seconds=result["seconds"],
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        p999_ms=result["p999_ms"],
        cpu_share=result["cpu_s"] / result["seconds"],
    )


def result_line(output: str, command: list[str]) -> dict[str, Any]:
    for line in output.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, Any] = orjson.loads(line.removeprefix("RESULT "))
            return result
    raise RuntimeError(f"no result from {command[0]}: {output[-500:]!r}")


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
