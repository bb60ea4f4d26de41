"""The SDKs for the JVM and Rust and `@jitsu/js`, as programs, against the real server."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from clients import CALLS, HERE, Sdk, attempt, node_program, require, run
from observations import dropped_after, observe
from outage import Outage
from recorder import Recorder
from stored_calls import STORED, VARIABLE_FIELDS, Event, all_stored, expected, take_event_id

from tests.server_process import MOUNTED, ServerProcess
from tests.site import COMPAT, FLAT, Site
from tests.waiting import wait_until

BUILD = HERE / "build"
BODY_BYTES_MAX = 1_000
# None of these SDKs tries a refused event more than once, but one that did would not loop yet.
ATTEMPTS_MAX = 3
# Fields of these SDKs' own, beside those that differ with every event.
OTHER_FIELDS = VARIABLE_FIELDS | {"clientIds", "instanceId"}


@dataclass(frozen=True)
class Client:
    """An SDK and a way to use it: its calls, and where and how it sends them.

    `paths` are those of the requests that its calls make, behind a prefix. What an `is_device`
    sends comes from the user's own device: the address it comes from is the user's.
    """

    sdk: Sdk
    paths: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    missing_call: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = (FLAT, COMPAT)
    key: str = "sdk-test-key"
    stored_key: str = "sdk-test-key"
    wrong_key: str = "wrong-key"
    is_device: bool = False
    has_times: bool = True
    retries: bool = False

    @property
    def call_types(self) -> list[str]:
        return sorted(STORED.keys() - self.missing_call)

    def command(self, url: str, prefix: str, calls: Path, *, key: str = "") -> list[str]:
        # What is at the root is stored in the flat format, under no prefix.
        prefix = prefix if len(self.prefixes) > 1 else ""
        return [*self.sdk.program(), url, prefix, key or self.key, str(calls), *self.arguments]

    def calls_file(self, folder: Path) -> Path:
        """Write the calls of calls.json that this SDK has."""
        calls = [call for call in json.loads(CALLS.read_bytes()) if call["type"] in self.call_types]
        return _write_calls(folder, calls)

    def expected_event(self, event_type: str, prefix: str) -> Event:
        fields = STORED[event_type] | ({"source_ip": "127.0.0.1"} if self.is_device else {})
        others = {"library": self.sdk.library} if self.sdk.library else {}
        return expected(
            fields,
            prefix=prefix,
            user_agent=self.sdk.user_agent,
            event_type=event_type,
            api_key=self.stored_key,
            **others,
            **self.sdk.extra,
        )


def jvm_program(name: str, main: str, *options: str) -> list[str]:
    folder = BUILD / name
    java = shutil.which("java")
    require("Java", installed=java is not None)
    require(f"the {main} program", installed=(folder / ".installed").is_file())
    # The clients live for a second, too short for the optimising compiler to pay.
    quick_start = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return [str(java), *quick_start, *options, "-cp", f"{folder}/classes:{folder}/lib/*", main]


def rust_program() -> list[str]:
    require("the Rust client", installed=(BUILD / "rust" / ".installed").is_file())
    return [str(BUILD / "rust" / "debug" / "rust_client")]


JAVA = Sdk(
    "Java",
    "3.5.4",
    lambda: jvm_program("java", "JavaClient"),
    {"name": "analytics-java", "version": "3.5.4"},
    "analytics-java/3.5.4",
)
RUDDERSTACK_JAVA = Sdk(
    "RudderStack Java",
    "3.1.2",
    lambda: jvm_program("rudderstack-java", "JavaClient"),
    {"name": "analytics-java", "version": "3.1.2"},
    "analytics-java/3.1.2",
    gzip="optional",
    extra={"channel": "server"},
)
KOTLIN = Sdk(
    "Kotlin",
    "1.27.0",
    lambda: jvm_program("kotlin", "KotlinClient"),
    {"name": "analytics-kotlin", "version": "1.27.0"},
    "analytics-kotlin/1.27.0",
    gzip="always",
)
# The SDK names itself neither in its events nor in its requests.
RUST = Sdk("Rust", "0.2.0", rust_program, {}, "reqwest/0.9.24")
JITSU = Sdk(
    "@jitsu/js",
    "1.11.0",
    lambda: node_program("jitsu_client.mjs", "@jitsu/js"),
    {"name": "@jitsu/js", "version": "1.11.0", "env": "node"},
    "node",
)

JITSU_KEYS = {"key": "jid:jsecret", "stored_key": "jsecret", "wrong_key": "jid:wrong"}
JITSU_TYPES = ("group", "identify", "page", "track")
NOT_IN_JITSU = frozenset({"alias", "screen"})
CLIENTS = {
    "kotlin": Client(
        KOTLIN, ("/b",), missing_call=frozenset({"page"}), is_device=True, retries=True
    ),
    "java": Client(JAVA, ("/v1/import/",), retries=True),
    "rudderstack-java": Client(RUDDERSTACK_JAVA, ("/v1/batch",), retries=True),
    "rust": Client(RUST, tuple(f"/v1/{name}" for name in sorted(STORED)), has_times=False),
    "rust-batch": Client(RUST, ("/v1/batch",), ("batch",), has_times=False),
    "jitsu": Client(
        JITSU,
        tuple(f"/api/s/{name}" for name in JITSU_TYPES),
        missing_call=NOT_IN_JITSU,
        prefixes=(FLAT,),
        is_device=True,
        **JITSU_KEYS,
    ),
    "jitsu-s2s": Client(
        JITSU,
        tuple(f"/api/s/s2s/{name}" for name in JITSU_TYPES),
        ("s2s",),
        missing_call=NOT_IN_JITSU,
        prefixes=(FLAT,),
        **JITSU_KEYS,
    ),
}
EVERY_CLIENT = pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS.keys())
EVERY_ENDPOINT = pytest.mark.parametrize(
    ("client", "prefix"),
    [
        pytest.param(client, prefix, id=f"{name}-{'flat' if prefix == FLAT else 'compat'}")
        for name, client in CLIENTS.items()
        for prefix in client.prefixes
    ],
)
RETRYING = [name for name, client in CLIENTS.items() if client.retries]
SENDING_ONCE = [name for name, client in CLIENTS.items() if not client.retries]


def _write_calls(folder: Path, calls: list[Event]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "calls.json"
    path.write_text(json.dumps(calls), "utf-8")
    return path


def one_call(folder: Path, **properties: object) -> Path:
    """Write a file with a single call, so that every SDK makes one request of it."""
    call = {
        "type": "track",
        "userId": "user-1",
        "anonymousId": "anon-1",
        "event": "Refused",
        "properties": properties,
        "context": {},
    }
    return _write_calls(folder, [call])


def check_stored(client: Client, prefix: str, stored: list[Event]) -> None:
    """Check that each call of `client` is stored once, as calls.json has it."""
    assert sorted(event["event_type"] for event in stored) == client.call_types
    event_ids = {take_event_id(event, prefix) for event in stored}
    assert len(event_ids - {""}) == len(client.call_types)
    for event in stored:
        assert {"timestamp", "sentAt"} <= event.keys() or not client.has_times
        event_type = event["event_type"]
        compared = {name: event[name] for name in event.keys() - OTHER_FIELDS}
        if client.sdk is KOTLIN and event_type == "alias":
            # The file has no anonymous id for it; the SDK adds the one of the installation.
            tracker = compared if prefix == FLAT else compared["eventn_ctx"]
            assert tracker["ids"].pop("ajs_anonymous_id") == tracker["user"].pop("anonymous_id")
        assert without_empty(compared) == client.expected_event(event_type, prefix)


def without_empty(fields: Event) -> Event:
    """Drop empty objects, which @jitsu/js sends for all parts of a context that it lacks."""
    kept = {
        name: without_empty(value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return {name: value for name, value in kept.items() if value != {}}


@pytest.mark.parametrize("program", [("-m", "segsrv"), MOUNTED], ids=["server", "mounted"])
@EVERY_ENDPOINT
def test_every_call_of_an_sdk_is_stored_once(
    tmp_path: Path, client: Client, prefix: str, program: tuple[str, ...]
) -> None:
    """All calls that an SDK has succeed, and each is stored exactly once and correctly mapped."""
    calls = client.calls_file(tmp_path)
    with ServerProcess(tmp_path / "data", write_keys=[client.key], program=program) as server:
        ended = run(client.command(server.url, prefix, calls))

        assert ended.stdout == f"delivered {len(client.call_types)}\n"
        stored = all_stored(server, len(client.call_types))
    check_stored(client, prefix, stored)
    missing = f", it has no {' and no '.join(sorted(client.missing_call))}"
    observe(
        client.sdk.name,
        client.sdk.version,
        calls=f"all {len(stored)}{missing if client.missing_call else ''}",
    )


@EVERY_CLIENT
def test_how_an_sdk_sends(tmp_path: Path, client: Client) -> None:
    """An SDK's paths are served, its key is found where it puts it, and gzip is understood."""
    calls = client.calls_file(tmp_path)
    prefix = FLAT if len(client.prefixes) > 1 else ""
    encodings = {"no": ["no"], "optional": ["no", "gzip"], "always": ["gzip"]}[client.sdk.gzip]
    with ServerProcess(tmp_path / "data", write_keys=[client.key]) as server:
        for encoding in encodings:
            with Recorder(server.port) as recorder:
                run(
                    client.command(recorder.url, FLAT, calls),
                    GZIP="1" if encoding == "gzip" else "0",
                )
                requests = [request for request in recorder.requests if request.method == "POST"]
            sent_to = sorted(request.path for request in requests)
            assert sent_to == [prefix + path for path in client.paths]
            assert {r.headers.get("content-encoding", "no") for r in requests} == {encoding}
            [auth] = {request.auth for request in requests}
            observe(client.sdk.name, client.sdk.version, auth=auth)
        all_stored(server, len(encodings) * len(client.call_types))
    observe(client.sdk.name, client.sdk.version, gzip=client.sdk.gzip)


@pytest.fixture
def strict_site(tmp_path: Path, client: Client) -> Iterator[Site]:
    """A server that takes only small bodies."""
    flags = ("--body-bytes-max", str(BODY_BYTES_MAX))
    with ServerProcess(tmp_path / "data", *flags, write_keys=[client.key]) as server:
        yield Site(server)


def counted_refusals(site: Site, command: list[str], status: int) -> str:
    """Run a client whose every request is refused, and say how many the server counted."""
    ended = attempt(command)

    requests = int(site.metric("segsrv_requests_total", status=str(status)))
    assert ended.returncode == 1, f"refused, but called delivered\n{ended.stdout}{ended.stderr}"
    assert ended.stdout == "delivered 0\n"
    assert site.metric("segsrv_requests_total") == requests
    assert 1 <= requests <= ATTEMPTS_MAX
    assert site.process.events() == []
    return dropped_after(requests)


@EVERY_CLIENT
def test_an_event_over_a_limit_is_dropped(
    strict_site: Site, tmp_path: Path, client: Client
) -> None:
    """An SDK that is answered 400 gives the event up after a bounded number of requests."""
    calls = one_call(tmp_path, text="x" * 5 * BODY_BYTES_MAX)

    command = client.command(strict_site.process.url, FLAT, calls)
    text = counted_refusals(strict_site, command, 400)

    observe(client.sdk.name, client.sdk.version, on_400=text)


@EVERY_CLIENT
def test_an_event_with_a_wrong_key_is_dropped(
    strict_site: Site, tmp_path: Path, client: Client
) -> None:
    """An SDK that is answered 401 gives the event up after a bounded number of requests."""
    calls = one_call(tmp_path)

    command = client.command(strict_site.process.url, FLAT, calls, key=client.wrong_key)
    text = counted_refusals(strict_site, command, 401)

    observe(client.sdk.name, client.sdk.version, on_401=text)


def _is_refused_or_over(recorder: Recorder, running: Future[Any]) -> bool:
    return 503 in recorder.statuses or running.done()


def test_events_outlast_an_outage(tmp_path: Path) -> None:
    """Calls that are answered 503 are delivered exactly once when the disk has room again."""
    # Java's SDKs wait up to half a minute before they try again, so all share one outage.
    clients = [replace(CLIENTS[name], key=name, stored_key=name) for name in RETRYING]
    calls = {client.key: client.calls_file(tmp_path / client.key) for client in clients}
    for client in clients:
        client.sdk.program()  # Where it is missing, the disk need not be filled first.
    with (
        Outage(tmp_path / "data", write_keys=tuple(calls)) as outage,
        ExitStack() as stack,
        ThreadPoolExecutor(len(clients)) as pool,
    ):
        recorders = {key: stack.enter_context(Recorder(outage.server.port)) for key in calls}
        running = {}
        for client in clients:
            recorder = recorders[client.key]
            command = client.command(recorder.url, FLAT, calls[client.key])
            started = running[client.key] = pool.submit(run, command)
            # One starts after the other: short of CPU time, Kotlin's SDK misses its only flush.
            wait_until(partial(_is_refused_or_over, recorder, started), deadline_s=30)
        outage.end()
        for client in clients:
            ended = running[client.key].result()
            assert ended.stdout == f"delivered {len(client.call_types)}\n"
        stored = all_stored(outage.server, sum(len(client.call_types) for client in clients))
    for client in clients:
        # Kotlin's SDK fetches settings beside, which are answered all the time.
        assert set(recorders[client.key].statuses) <= {200, 503}
        assert 503 in recorders[client.key].statuses
        check_stored(client, FLAT, [event for event in stored if event["api_key"] == client.key])
        observe(client.sdk.name, client.sdk.version, retry="delivered once")


@pytest.mark.parametrize("name", SENDING_ONCE)
def test_events_of_an_sdk_without_retries_are_its_callers(tmp_path: Path, name: str) -> None:
    """An SDK without retries reports each 503 to its caller, and delivers what is sent again."""
    client = CLIENTS[name]
    calls = client.calls_file(tmp_path)
    client.sdk.program()  # Where it is missing, the disk need not be filled first.
    with Outage(tmp_path / "data", write_keys=(client.key,)) as outage:
        site = Site(outage.server)
        command = client.command(outage.server.url, FLAT, calls)
        refused = attempt(command)

        requests = int(site.metric("segsrv_requests_total", status="503"))
        assert refused.returncode == 1
        assert refused.stdout == "delivered 0\n"
        assert refused.stderr.count("not delivered: ") == requests == len(client.paths)
        # Whole: the figures in the server's text may have these digits too.
        assert len(re.findall(r"\b503\b", refused.stderr)) == requests
        outage.end()
        assert run(command).stdout == f"delivered {len(client.call_types)}\n"
        stored = all_stored(outage.server, len(client.call_types))
    check_stored(client, FLAT, stored)
    retries = requests - len(client.paths)
    observe(
        client.sdk.name,
        client.sdk.version,
        retry=f"{retries or 'no'} retries, an error for the caller",
    )


def test_kotlin_sdk_delivers_over_https(tmp_path: Path) -> None:
    """The Kotlin SDK, whose scheme is https unless told otherwise, trusts segsrv's certificate."""
    client = CLIENTS["kotlin"]
    calls = client.calls_file(tmp_path)
    keytool = shutil.which("keytool")
    openssl = shutil.which("openssl")
    require("Java's keytool", installed=keytool is not None)
    require("openssl", installed=openssl is not None)
    cert, key, trusted = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "trusted.p12"
    make_cert = [
        *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=segsrv"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert),
    ]
    trust_cert = [
        *(keytool, "-importcert", "-noprompt", "-alias", "segsrv", "-file", cert),
        *("-keystore", trusted, "-storetype", "PKCS12", "-storepass", "changeit"),
    ]
    for make in (make_cert, trust_cert):
        subprocess.run(make, check=True, capture_output=True, timeout=60)
    truststore = (
        f"-Djavax.net.ssl.trustStore={trusted}",
        "-Djavax.net.ssl.trustStorePassword=changeit",
    )
    flags = ("--tls-cert", str(cert), "--tls-key", str(key))
    with ServerProcess(tmp_path / "data", *flags, write_keys=[client.key]) as server:
        program = jvm_program("kotlin", "KotlinClient", *truststore)
        ended = run([*program, server.url, FLAT, client.key, str(calls)])

        assert ended.stdout == f"delivered {len(client.call_types)}\n"
        stored = all_stored(server, len(client.call_types))
    check_stored(client, FLAT, stored)
