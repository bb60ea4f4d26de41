"""Headless Chromium, driven over a pipe by its DevTools protocol, and what its pages did.

Chromium reads commands from its file descriptor 3 and writes answers and events to 4, each a JSON
text that a zero byte ends; see the flag `--remote-debugging-pipe`.
"""

import contextlib
import fcntl
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.needs import skip_or_fail
from tests.waiting import wait_until

ANSWER_TIMEOUT_S = 30.0
END_TIMEOUT_S = 10.0
# Nothing but this machine can be reached; names below `.example` are for origins of pages.
RESOLVER_RULES = "MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
FLAGS = (
    "--headless",
    # The tests may run as root, in a container that allows no further sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    # Chromium talks to its maker's hosts otherwise, and looks names up at every start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules={RESOLVER_RULES}",
    # The certificates are made by the tests.
    "--ignore-certificate-errors",
)


@dataclass
class Request:
    """One request as Chromium sent it for a page."""

    method: str
    url: str
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    cors_error: str = ""

    def auth_form(self, write_key: str) -> str:
        """Say where this request has the write key."""
        forms = {
            "Basic": self.headers.get("authorization", "").startswith("Basic "),
            "body writeKey": json.loads(self.body).get("writeKey") == write_key,
        }
        return " + ".join(form for form, is_there in forms.items() if is_there)


class Chromium:
    """A running browser; the pages of one profile share nothing with those of another."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            skip_or_fail("chromium is not installed; tests/sdk/install_browser.sh installs it")
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Numbers from 10 up can't be in the way of the two that Chromium expects.
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        with contextlib.ExitStack() as stack:
            for fd in (*passed, theirs_in, theirs_out):
                stack.callback(os.close, fd)
            log = stack.enter_context((profile.parent / f"{profile.name}.log").open("wb"))
            self._process = subprocess.Popen(
                [
                    *("bash", "-c", f'exec "$@" 3<&{passed[0]} 4>&{passed[1]}', "chromium"),
                    *(str(program), *FLAGS, "--remote-debugging-pipe"),
                    *(f"--user-data-dir={profile}", "about:blank"),
                ],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._commands = os.fdopen(ours_out, "wb", buffering=0)
        self._events = os.fdopen(ours_in, "rb")
        self._reader = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._reader.start()

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(END_TIMEOUT_S)
        finally:
            # Its helper processes share its session, so none of them outlives the test.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join(END_TIMEOUT_S)
            self._commands.close()
            self._events.close()

    @contextlib.contextmanager
    def profile(self) -> Iterator[str]:
        """Make a profile with caches, cookies and storage of its own."""
        made = self.call("Target.createBrowserContext", disposeOnDetach=True)
        profile = made["browserContextId"]
        try:
            yield profile
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=profile)

    def open(self, profile: str, url: str) -> "Page":
        """Open a page and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank", browserContextId=profile)
        target_id = target["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target_id, flatten=True)
        page = Page(self, target_id, attached["sessionId"])
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.go(url)
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        message = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._commands.write(json.dumps(message).encode() + b"\0")
        try:
            answer = answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise AssertionError(f"{method}: no answer within {ANSWER_TIMEOUT_S} s") from None
        assert "result" in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def _read(self) -> None:
        rest = b""
        while piece := self._events.read1(1 << 20):
            *texts, rest = (rest + piece).split(b"\0")
            for text in texts:
                message = json.loads(text)
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.note(message["method"], message["params"])


class Page:
    """One open page: what it asked for, what it complained about."""

    def __init__(self, browser: Chromium, target_id: str, session: str) -> None:
        self.session = session
        self.complaints: list[str] = []
        self._browser = browser
        self._target_id = target_id
        self._requests: dict[str, Request] = {}
        self._seen: set[str] = set()
        self._sent_headers: dict[str, dict[str, str]] = {}

    @property
    def requests(self) -> list[Request]:
        return list(self._requests.values())

    @property
    def preflights(self) -> list[Request]:
        return [request for request in self.requests if request.method == "OPTIONS"]

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    @property
    def origins_asked(self) -> set[str]:
        """Where the page's requests went to, itself included."""
        urls = [urlsplit(request.url) for request in self.requests]
        return {f"{url.scheme}://{url.netloc}" for url in urls}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self.session, **params)

    def go(self, url: str) -> None:
        """Go to *url* and wait until it is loaded."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        # The answer comes when the new document is there, which may still be loading.
        self.run(
            "if (document.readyState !== 'complete')"
            " await new Promise((resolve) => addEventListener('load', resolve))"
        )

    def run(self, script: str, **values: Any) -> Any:
        """Run the body of an async function with *values* as its variables; return its result."""
        names, texts = ", ".join(values), ", ".join(map(json.dumps, values.values()))
        ran = self.call(
            "Runtime.evaluate",
            expression=f"(async ({names}) => {{ {script} }})({texts})",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in ran, f"{ran['exceptionDetails']}\n{self.complaints}"
        return ran["result"].get("value")

    def pass_time(self, seconds: float) -> None:
        """Let the page's clocks and timers run through *seconds*, which takes far less time.

        They stand still afterwards, so this is for the end of a test.
        """
        self._seen.discard("Emulation.virtualTimeBudgetExpired")
        self.call(
            "Emulation.setVirtualTimePolicy",
            policy="pauseIfNetworkFetchesPending",
            budget=seconds * 1000,
        )
        wait_until(lambda: "Emulation.virtualTimeBudgetExpired" in self._seen)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target_id)

    def note(self, method: str, event: dict[str, Any]) -> None:
        """Keep what an event says; the browser's reader calls this, in its thread."""
        match method:
            case "Network.requestWillBeSent":
                sent = event["request"]
                request = Request(sent["method"], sent["url"], sent.get("postData", ""))
                # The two events about a request may come in either order.
                request.headers = self._sent_headers.pop(event["requestId"], {})
                self._requests[event["requestId"]] = request
            case "Network.requestWillBeSentExtraInfo":
                headers = {name.lower(): value for name, value in event["headers"].items()}
                if (request := self._requests.get(event["requestId"])) is not None:
                    request.headers = headers
                else:
                    self._sent_headers[event["requestId"]] = headers
            case "Network.responseReceived":
                if (request := self._requests.get(event["requestId"])) is not None:
                    request.status = event["response"]["status"]
            case "Network.loadingFailed":
                if (request := self._requests.get(event["requestId"])) is not None:
                    request.cors_error = event.get("corsErrorStatus", {}).get("corsError", "")
            case "Log.entryAdded":
                if event["entry"]["level"] == "error":
                    self.complaints.append(event["entry"]["text"])
            case "Runtime.consoleAPICalled":
                if event["type"] == "error":
                    self.complaints.append(str([arg.get("value") for arg in event["args"]]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(event["exceptionDetails"]))
        self._seen.add(method)
