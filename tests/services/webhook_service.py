"""The receiver of webhooks as a process of its own."""

import http.client
import json
import signal
import sys
from pathlib import Path
from typing import Any

from tests.services.base import CONNECT_TIMEOUT_S, Service

RECEIVER = Path(__file__).with_name("webhook_receiver.py")


class WebhookService(Service):
    name = "webhook"
    start_timeout_s = 30.0
    # It has nothing to finish.
    stop_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    @property
    def path(self) -> Path:
        return self.data_dir / "requests.ndjson"

    def command(self) -> list[str]:
        return [sys.executable, str(RECEIVER), str(self.port), str(self.path)]

    def prepare(self) -> None:
        # What a crash cut off was not answered.
        if self.path.exists():
            data = self.path.read_bytes()
            self.path.write_bytes(data[: data.rfind(b"\n") + 1])

    def is_ready(self) -> bool:
        self.answer_next()
        return True

    def answer_next(self, *answers: dict[str, Any]) -> None:
        """Have the next requests answered so; see `Receiver`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.request("PUT", "/control", body=json.dumps(answers))
            if connection.getresponse().status != 200:
                raise ConnectionError("the receiver does not take orders")
        finally:
            connection.close()

    def batches(self) -> list[tuple[dict[str, str], list[dict[str, Any]]]]:
        """Return the headers and the events of each batch that was taken, in order."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        kept = [json.loads(line) for line in lines]
        return [
            (one["headers"], [json.loads(line) for line in one["body"].encode().splitlines()])
            for one in kept
        ]
