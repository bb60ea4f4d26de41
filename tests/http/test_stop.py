"""A stop under load: what was answered is stored, and nobody waits for what never comes."""

import threading

from tests.http.fuzzing import Connection, ConnectionEnded, request
from tests.site import BOTH_FRONTS, FLAT, KEY, id_of, new_id
from tests.waiting import wait_until

CLIENTS = 8
PIPELINED = 3


class Client(threading.Thread):
    """Sends events over a kept connection, a few at a time, until the server ends it."""

    def __init__(self, address) -> None:
        super().__init__()
        self._connection = Connection(address)
        self.answered = []
        self.left_over = None

    def run(self):
        try:
            while True:
                ids = [new_id() for _ in range(PIPELINED)]
                self._connection.send(b"".join(map(event_request, ids)))
                for event_id in ids:
                    status, _headers, _body = self._connection.answer()
                    assert status == 200
                    self.answered.append(event_id)
        except ConnectionEnded as end:
            self.left_over = end.received
        finally:
            self._connection.close()


def event_request(event_id) -> bytes:
    body = b'{"type":"track","messageId":"%b"}' % event_id.encode()
    return request(FLAT, body, [f"X-Write-Key: {KEY}"])


@BOTH_FRONTS
def test_what_was_answered_is_stored(start_server):
    """Each event with an answer once, and none of those without one twice; the stop is orderly."""
    site = start_server()
    clients = [Client(site.address) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: all(len(client.answered) > 30 for client in clients))
    assert site.process.stop() == 0
    for client in clients:
        client.join(timeout=10)
        assert not client.is_alive()
        assert client.left_over == b"", "an answer was cut"

    stored = [id_of(event) for event in site.process.events()]
    assert len(stored) == len(set(stored))
    assert {event_id for client in clients for event_id in client.answered} <= set(stored)
    assert "level=error" not in site.process.stderr
