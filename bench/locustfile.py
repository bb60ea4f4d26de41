"""Locust users that speak like Segment SDKs, for this server or any compatible endpoint.

    locust -f bench/locustfile.py --host http://127.0.0.1:8080 --write-key KEY BrowserUser

An answer counts as success only if it is a 200 with a JSON object as its body, because that is
what the SDKs need. Events are counted from locust's own statistics (one entry per kind of request,
and each kind has a fixed number of events), so the closing line is right with `--processes` too.
"""

from __future__ import annotations

import random
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import orjson
import payloads
from locust import FastHttpUser, events, task
from locust.runners import WorkerRunner

if TYPE_CHECKING:
    from argparse import Namespace

    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment
    from locust.stats import RequestStats

CLIENTS = payloads.make_clients(random.Random(1), 2000)


def add_options(parser: LocustArgumentParser, **_: object) -> None:
    parser.add_argument(
        "--write-key",
        default="",
        env_var="SEGMENT_WRITE_KEY",
        is_secret=True,
        help="sent as Basic auth 'KEY:' and as writeKey in the body",
    )
    parser.add_argument(
        "--path",
        default="/api/v1/segment",
        help="where events are posted, or what the endpoints below have in common",
    )
    parser.add_argument(
        "--single-endpoint", default="", help="after --path, for single events, such as /v1/t"
    )
    parser.add_argument(
        "--batch-endpoint", default="", help="after --path, for batches, such as /v1/batch"
    )
    parser.add_argument("--batch-events", type=int, default=100, help="events in one batch")
    parser.add_argument(
        "--payload-bytes", type=int, default=0, help="pad every event to this size; 0 leaves it"
    )


def single_path(options: Namespace) -> str:
    return options.path.rstrip("/") + options.single_endpoint or "/"


def batch_path(options: Namespace) -> str:
    return options.path.rstrip("/") + options.batch_endpoint or "/"


def batch_name(options: Namespace) -> str:
    return f"{batch_path(options)} [{options.batch_events} events]"


class SegmentUser(FastHttpUser):
    """Sends requests as fast as they are answered; the subclasses say which."""

    abstract = True

    def on_start(self) -> None:
        self.options: Namespace = self.environment.parsed_options
        self.rng = random.Random()
        # One user is one browser, as its keep-alive connection is.
        self.browser = self.rng.choice(CLIENTS)
        credentials = b64encode(f"{self.options.write_key}:".encode()).decode()
        self.authorization = f"Basic {credentials}"
        # Locust's types for `data` leave out bytes, which it takes and we have.
        self.session: Any = self.client

    def send_event(self) -> None:
        body = payloads.browser_event(
            self.rng,
            self.browser,
            write_key=self.options.write_key,
            event_bytes=self.options.payload_bytes,
        )
        headers = {
            "Content-Type": "text/plain",
            "User-Agent": self.browser.user_agent,
            "X-Forwarded-For": self.browser.address,
        }
        path = single_path(self.options)
        self.post(path, body, headers, path)

    def send_batch(self) -> None:
        body = payloads.server_batch(
            self.rng,
            CLIENTS,
            events=self.options.batch_events,
            write_key=self.options.write_key,
            event_bytes=self.options.payload_bytes,
        )
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "analytics-node-next/latest",
        }
        self.post(batch_path(self.options), body, headers, batch_name(self.options))

    def post(self, url: str, body: bytes, headers: dict[str, str], name: str) -> None:
        headers["Authorization"] = self.authorization
        # A redirect that is followed would hide that SDKs lose events on it.
        with self.session.post(
            url,
            data=body,
            headers=headers,
            name=name,
            catch_response=True,
            allow_redirects=False,
        ) as response:
            # Connection errors (status 0) and statuses from 400 are failures without our help.
            if 0 < response.status_code < 400 and response.status_code != 200:
                response.failure(f"status {response.status_code}, not 200")
            elif response.status_code == 200 and not is_json_object(response.content):
                response.failure("the body is no JSON object")


class BrowserUser(SegmentUser):
    """A browser: one event a request."""

    @task
    def event(self) -> None:
        self.send_event()


class ServerUser(SegmentUser):
    """A backend: batches."""

    @task
    def batch(self) -> None:
        self.send_batch()


class MixedUser(SegmentUser):
    """Nine browser events, then about one batch."""

    @task(9)
    def event(self) -> None:
        self.send_event()

    @task(1)
    def batch(self) -> None:
        self.send_batch()


def is_json_object(body: bytes | None) -> bool:
    try:
        return isinstance(orjson.loads(body or b""), dict)
    except orjson.JSONDecodeError:
        return False


def print_summary_at_quit(environment: Environment, **_: Any) -> None:
    def print_summary(**_: Any) -> None:
        if environment.stats.total.num_requests and environment.parsed_options:
            print(summary(environment.stats, environment.parsed_options), flush=True)

    # The statistics of a worker arrive at the master, which prints them once for all.
    if not isinstance(environment.runner, WorkerRunner):
        hooks: Any = environment.events
        hooks.quit.add_listener(print_summary)


def summary(stats: RequestStats, options: Namespace) -> str:
    """The closing line: acknowledged events, their rate, failed requests and latencies."""
    events_by_name = {single_path(options): 1, batch_name(options): options.batch_events}
    acknowledged = sum(
        (entry.num_requests - entry.num_failures) * events_by_name[entry.name]
        for entry in stats.entries.values()
    )
    total = stats.total
    elapsed_s = max((total.last_request_timestamp or 0) - total.start_time, 1e-3)
    return (
        f"events: {acknowledged}  events/s: {acknowledged / elapsed_s:.1f}  "
        f"requests/s: {total.num_requests / elapsed_s:.1f}  failures: {total.num_failures}  "
        f"p50: {total.get_response_time_percentile(0.5)} ms  "
        f"p99: {total.get_response_time_percentile(0.99)} ms"
    )


# Locust's hooks have no types.
hooks: Any = events
hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(print_summary_at_quit)
