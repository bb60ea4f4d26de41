"""A webhook's receiver that dies, hangs, refuses, throttles and fills up, behind a real server."""

from collections import Counter

import pytest

from tests.command import segsrv
from tests.disks import fill, small_disk
from tests.faults.crashes import kill_all
from tests.faults.load import Load
from tests.server_process import ServerProcess
from tests.services.proxy import Proxy
from tests.services.webhook_target import WebhookTarget
from tests.site import Site, new_id
from tests.waiting import until, wait_until

EVENTS = 20


@pytest.fixture
def target(tmp_path):
    target = WebhookTarget(tmp_path / "receiver")
    with target.service:
        yield target


@pytest.fixture
def proxy(target):
    with Proxy(target.service.port) as proxy:
        yield proxy


def server(tmp_path, target, port, *lines: str) -> ServerProcess:
    config = tmp_path / "segsrv.toml"
    config.write_text('sink = ["file:"]\n' + target.table(port) + "\n".join(lines))
    flags = (f"--config={config}", "--shutdown-grace-s=1", "--journal-retention-s=3600")
    return ServerProcess(tmp_path / "data", *flags)


def post(process: ServerProcess, *event_ids: str) -> None:
    batch = [
        {"type": "track", "event": "e", "userId": "u", "messageId": event_id}
        for event_id in event_ids
    ]
    assert Site(process).post({"batch": batch}).status == 200


def new_ids(count: int = EVENTS) -> list[str]:
    return [new_id() for _number in range(count)]


def without_doubles(target: WebhookTarget) -> Counter[str]:
    """Return the events by id, batches that came again left out, as a receiver would do it."""
    batches = dict(zip(target.batch_ids(), target.service.batches(), strict=True))
    events = [event for _headers, events in batches.values() for event in events]
    return Counter(event["eventn_ctx_event_id"] for event in events)


class TestReceiver:
    def test_what_arrives_is_what_is_stored(self, tmp_path, target):
        """The lines are those of the file sink, from the same journal."""
        with server(tmp_path, target, target.service.port) as process:
            post(process, *new_ids())
            stored = process.wait_for_events(EVENTS)
            wait_until(lambda: len(target.ids()) == EVENTS)

        received = [event for _headers, events in target.service.batches() for event in events]
        assert received == stored

    def test_one_event_of_many_is_refused(self, tmp_path, target):
        """It becomes a dead letter with what the receiver said, and all others arrive once."""
        ids, refused = new_ids(500), target.refused_event(new_id())
        with server(tmp_path, target, target.service.port) as process:
            site = Site(process)
            post(process, *ids[:250])
            site.post(refused)
            post(process, *ids[250:])
            wait_until(lambda: sorted(target.ids()) == sorted(ids))
            wait_until(site.dead_letters)
            (letter,) = site.dead_letters()

        assert letter["sink"] == "webhook"
        assert letter["message"].endswith("answered 422: not such events")
        assert letter["item"]["eventn_ctx_event_id"] == refused["messageId"]

    def test_an_expired_token_buries_nothing(self, tmp_path, target):
        """While the receiver answers 401 no dead letter is made, and later all arrive."""
        ids = new_ids()
        target.service.answer_next(*[{"status": 401, "body": "expired"}] * 3)
        with server(tmp_path, target, target.service.port) as process:
            post(process, *ids)
            wait_until(lambda: sorted(target.ids()) == sorted(ids))
            assert Site(process).dead_letters() == []
        assert "sink: misconfigured sink=webhook" in process.stderr
        assert "refuses the credentials: expired" in process.stderr
        assert "sink: works again sink=webhook" in process.stderr

    def test_a_receiver_that_asks_for_time_is_left_alone(self, tmp_path, target):
        """The metrics count that, and the limit of the waits holds for it too."""
        ids = new_ids()
        target.service.answer_next({"status": 429, "headers": {"Retry-After": "3600"}})
        with server(tmp_path, target, target.service.port) as process:
            post(process, *ids)
            wait_until(lambda: sorted(target.ids()) == sorted(ids))
            labels = {"sink": "webhook", "count": "retry_after_answers"}
            wait_until(lambda: Site(process).metric("segsrv_sink_own_total", **labels) == 1)

    def test_a_disk_of_the_receiver_that_is_full(self, tmp_path):
        """It answers 507 until there is room; nothing is lost, and the other sink stays current."""
        with small_disk(tmp_path, "tmpfs") as disk:
            target = WebhookTarget(tmp_path / "receiver", data_dir=disk)
            ids = new_ids()
            with target.service, server(tmp_path, target, target.service.port) as process:
                fill(disk)
                post(process, *ids)
                process.wait_for_events(EVENTS)
                wait_until(lambda: "answered 507: No space left on device" in process.stderr)
                for filler in disk.glob("filler-*"):
                    filler.unlink()
                wait_until(lambda: sorted(target.ids()) == sorted(ids))


class TestNetwork:
    async def test_no_event_is_lost_when_all_of_them_die_in_turn(self, tmp_path, target, proxy):
        """Receiver, server and network, in the middle of a load: all that was acknowledged is
        there, and what is there twice came in a batch of the same id.
        """
        load = Load(seed=3)
        for harm in ("receiver", "network", "server", "answers", "hang"):
            process = server(tmp_path, target, proxy.port, "batch_events_max = 50")
            with process:
                async with load.running(process.port):
                    arrived = len(target.ids())
                    await until(lambda arrived=arrived: len(target.ids()) >= arrived + 100)
                    break_it(harm, target, proxy, process)
                    wanted = len(load.acknowledged) + (0 if harm == "server" else 100)
                    await until(lambda wanted=wanted: len(load.acknowledged) >= wanted)
                mend_it(harm, target, proxy)
                if harm != "server":
                    await until(lambda: load.acknowledged <= set(target.ids()), deadline_s=30)
        with server(tmp_path, target, proxy.port):
            await until(lambda: load.acknowledged <= set(target.ids()), deadline_s=30)

        counts = without_doubles(target)
        assert load.acknowledged <= counts.keys()
        assert set(counts.values()) == {1}

    def test_a_batch_whose_answer_was_lost_comes_again_under_its_id(self, tmp_path, target, proxy):
        """So the receiver can tell that it has it."""
        ids = new_ids()
        with server(tmp_path, target, proxy.port) as process:
            wait_until(lambda: proxy.accepted)
            proxy.drop_answers(client_bytes=100)
            post(process, *ids)
            wait_until(lambda: proxy.is_cut)
            assert sorted(target.ids()) == sorted(ids)
            proxy.heal()
            wait_until(lambda: len(target.ids()) == 2 * EVENTS)

        assert len(set(target.batch_ids())) == 1
        (first, _events), (second, _again) = target.service.batches()
        assert first["idempotency-key"] == second["idempotency-key"]

    def test_a_receiver_that_is_down_at_the_start_holds_up_nothing(self, tmp_path, target):
        """Requests are answered, the other sink delivers, and the log says it once."""
        ids = new_ids()
        target.service.kill()
        with server(tmp_path, target, target.service.port) as process:
            post(process, *ids)
            process.wait_for_events(EVENTS)
            wait_until(lambda: "Connection refused" in process.stderr)
            target.service.start()
            wait_until(lambda: sorted(target.ids()) == sorted(ids))
        assert process.stderr.count("sink: unavailable") == 1


def break_it(harm, target, proxy, process):
    match harm:
        case "receiver":
            target.service.kill()
        case "network":
            proxy.cut()
        case "server":
            kill_all(process)
        case "answers":
            proxy.drop_answers()
        case "hang":
            target.service.pause()


def mend_it(harm, target, proxy):
    match harm:
        case "receiver":
            target.service.start()
        case "network" | "answers":
            proxy.heal()
        case "hang":
            target.service.resume()


class TestCommands:
    def test_check_says_what_is_wrong_in_one_line(self, tmp_path, target):
        """A wrong token, a wrong path and a receiver that is down are told apart."""
        config = tmp_path / "segsrv.toml"
        table = target.table(target.service.port)
        config.write_text(f'{table}options.check_method = "GET"\n')
        good = segsrv("check", f"--config={config}", cwd=tmp_path)
        assert good.returncode == 0, good.stderr
        assert f"webhook (http://127.0.0.1:{target.service.port}/…)" in good.stdout
        said = []
        for status in (401, 403, 404):
            target.service.answer_next({"status": status})
            said.append(segsrv("check", f"--config={config}", cwd=tmp_path))
        target.service.kill()
        said.append(segsrv("check", f"--config={config}", cwd=tmp_path))

        assert [ended.returncode for ended in said] == [3] * 4
        assert [ended.stderr.count("\n") for ended in said] == [1] * 4
        for ended, part in zip(
            said, ("refuses the cred", "no right", "nothing at this", "refused"), strict=True
        ):
            assert part in ended.stderr

    def test_a_replay_sends_again_under_ids_of_its_own(self, tmp_path, target):
        """A receiver that knows the first ones takes these for new, as was asked for."""
        ids = new_ids()
        with server(tmp_path, target, target.service.port) as process:
            post(process, *ids)
            wait_until(lambda: sorted(target.ids()) == sorted(ids))
        config = f"--config={tmp_path}/segsrv.toml"
        data = f"--data-dir={tmp_path}/data"
        chosen = ("--sink", "webhook", "--since", "2020-01-01")
        ended = segsrv("journal", "replay", config, data, *chosen, cwd=tmp_path)

        assert ended.returncode == 0, ended.stderr
        assert sorted(target.ids()) == sorted([*ids, *ids])
        assert target.batch_ids()[-1].startswith("replay-")


def test_events_are_json_objects(tmp_path, target):
    """One to a line, whatever is in them."""
    with server(tmp_path, target, target.service.port) as process:
        odd = "line\nend\r\x85\u2028\x00"
        event = {"type": "track", "event": odd, "userId": "u", "properties": {odd: odd}}
        assert Site(process).post(event).status == 200
        (stored,) = process.wait_for_events(1)
        wait_until(target.ids)
    ((_headers, (received,)),) = target.service.batches()
    assert received == stored
