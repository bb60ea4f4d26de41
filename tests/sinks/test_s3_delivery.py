"""`segsrv serve` with an S3 sink: what a crash and a refusal leave in the bucket."""

import orjson

from tests.faults.crashes import kill_all
from tests.server_process import ServerProcess
from tests.services.proxy import Proxy
from tests.services.s3_answers import S3Answers
from tests.services.s3_target import ENVIRON, events_of, table_of
from tests.site import Site, id_of, new_id
from tests.waiting import wait_until

OBJECT_BYTES_MAX = 4_000


def served(folder, endpoint, prefix, more="") -> ServerProcess:
    (folder / "segsrv.toml").write_text(table_of(endpoint, prefix) + more)
    config = ("--config", str(folder / "segsrv.toml"))
    return ServerProcess(folder / "data", *config, environ=ENVIRON)


def post(process, count, **properties) -> list[str]:
    """Send *count* events in one request, and return their ids."""
    ids = [new_id() for _number in range(count)]
    events = [{"event_id": event_id, "type": "track", **properties} for event_id in ids]
    answer = Site(process).post({"batch": events}, path="/v1/batch")
    assert answer.status == 200, answer.body
    return ids


class TestCrash:
    def test_a_batch_in_hand_is_stored_once(self, s3_service, s3_prefix, tmp_path):
        """A server that is killed between the object and its answer sends it again alone."""

        def stored() -> list[str]:
            return [id_of(event) for event in events_of(s3_service.objects(f"{s3_prefix}/dt="))]

        with Proxy(s3_service.port) as proxy:
            endpoint = f"http://127.0.0.1:{proxy.port}"
            with served(tmp_path, endpoint, s3_prefix) as process:
                first = post(process, 50)
                wait_until(lambda: len(stored()) == 50)
                proxy.hold_answers()
                second = post(process, 50)
                wait_until(lambda: len(stored()) == 100)
                kill_all(process)
            proxy.heal()
            with served(tmp_path, endpoint, s3_prefix) as process:
                third = post(process, 50)
                wait_until(lambda: len(stored()) >= 150)
                own = {"sink": "s3", "count": "found_objects"}
                assert Site(process).metric("segsrv_sink_own_total", **own) == 1
                process.stop()

        assert sorted(stored()) == sorted(first + second + third)


class TestRefusal:
    def test_objects_that_are_too_large_are_sent_in_parts(self, s3_prefix, tmp_path):
        """And an event that is too large by itself is set aside, with the reason."""

        def answer(_method, path, headers):
            if "_segsrv" in path:
                return 412, "PreconditionFailed"
            return (413, "") if int(headers["content-length"]) > OBJECT_BYTES_MAX else (200, "")

        with S3Answers(answer) as server:
            more = 'options.compression = "none"\n'
            with served(tmp_path, server.endpoint, s3_prefix, more) as process:
                [large] = post(process, 1, properties={"text": "x" * OBJECT_BYTES_MAX})
                ids = post(process, 40)
                wait_until(lambda: sum(map(len, lines_of(server))) == len(ids))
                wait_until(lambda: Site(process).dead_letters())
                process.stop()
            [letter] = Site(process).dead_letters()

        found = [id_of(orjson.loads(line)) for lines in lines_of(server) for line in lines]
        assert sorted(found) == sorted(ids)
        assert id_of(letter["item"]) == large
        assert "the endpoint takes no object of" in letter["message"]


def lines_of(server: S3Answers) -> list[list[bytes]]:
    """Return the lines of each object that was taken."""
    return [body.splitlines() for path, body in list(server.bodies.items()) if "/dt=" in path]
