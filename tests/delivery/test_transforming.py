"""Transformed batches on their way to a sink: once each, whatever a function says next time."""

import json
from pathlib import Path

import pytest

from segsrv.delivery import transforming as ways
from segsrv.delivery.attempts import Attempts
from segsrv.delivery.spool import Spool
from segsrv.delivery.transforming import MARK, Transforming
from segsrv.errors import SinkRejected, SinkUnavailable
from segsrv.journal.dead_letters import DeadLetters
from segsrv.sinks.file.sink import FileSink
from segsrv.transform.transformer import Transformer
from tests.delivery.shipping import MemorySink, append, append_batch, open_log, shipping
from tests.transform.hostile import hello, module
from tests.waiting import until

COUNTING = """
import itertools, os
numbers = itertools.count()
def act(event, context):
    n = event["n"]
    if n % 5 == 0:
        return None
    if n % 7 == 0:
        raise ValueError(n)
    # Another answer at each call, and in each process.
    said = {"n": n, "said": f"{os.getpid()}-{next(numbers)}", "id": context.event_id}
    return [said, said] if n % 3 == 0 else said
"""

SAME = """
def act(event, context):
    return event
"""


def options(directory: Path, function: str, spool_name: str = "test") -> dict:
    """Return what a shipper needs to transform what it delivers."""
    attempts = Attempts("functions", timeout_s=60.0, retry_s_max=0.01)
    spool = Spool(directory / "state" / "transformed", spool_name)
    letters = DeadLetters(directory / "dead-letter", prefix="sink-test", bytes_max=1 << 20)
    own = Transformer(
        "test",
        hello(directory, function),
        timeout_s=30.0,
        made_bytes_max=1 << 26,
        retry=attempts.until_taken,
    )
    return {"transforming": Transforming(own, spool, letters, attempts), "spool": spool}


def letters_of(directory: Path) -> list[dict]:
    paths = sorted((directory / "dead-letter").glob("*.ndjson"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def numbers_of(lines: list[bytes]) -> list[int]:
    return [json.loads(line)["n"] for line in lines]


def expected(numbers) -> list[int]:
    """Return the numbers that COUNTING lets through."""
    kept = [n for n in numbers if n % 5 and n % 7]
    return [n for n in kept for _copy in range(1 if n % 3 else 2)]


async def test_what_a_function_makes_is_delivered(tmp_path):
    """Events arrive changed, several for one, with their facts; failures are dead letters."""
    log, sink = open_log(tmp_path), MemorySink()
    lines = append_batch(log, *range(1, 40))
    own = options(tmp_path, f"{module(tmp_path, COUNTING)}:act")
    async with shipping(tmp_path, log, sink, **own) as shipper:
        await until(lambda: not shipper.lag_bytes)
    assert numbers_of(sink.lines) == expected(range(1, 40))
    facts = [fact for batch, _placement in sink.sent for fact in batch.facts]
    assert [fact.length for fact in facts] == list(map(len, sink.lines))
    assert [fact.event_id for fact in facts if fact.event_id.startswith("id-3")][:4] == [
        "id-3",
        "id-3-1",
        "id-31",
        "id-32",
    ]
    letters = letters_of(tmp_path)
    assert [letter["item"]["n"] for letter in letters] == [7, 14, 21, 28]
    assert letters[0] | {"time": "", "traceback": ""} == {
        "time": "",
        "reason": "transform_failed",
        "message": "ValueError: 7",
        "sink": "test",
        "key_id": "web",
        "format": "flat",
        "traceback": "",
        "item": json.loads(lines[6]),
    }
    assert "raise ValueError(n)" in letters[0]["traceback"]


async def test_a_batch_is_the_same_after_a_restart(tmp_path):
    """What was being sent is sent again as it was, though the function would say otherwise."""
    log = open_log(tmp_path)
    append_batch(log, *range(1, 40))
    name = f"{module(tmp_path, COUNTING)}:act"
    first = MemorySink()
    seen = []

    async def send(batch, _placement):
        seen.append(batch)
        raise SinkUnavailable("down")

    first.send = send
    async with shipping(tmp_path, log, first, grace_s=0, **options(tmp_path, name)):
        await until(lambda: seen)
    sink = MemorySink()
    async with shipping(tmp_path, log, sink, **options(tmp_path, name)):
        await until(lambda: sink.sent)
    again = sink.sent[0][0]
    assert (again.id, again.content) == (seen[0].id, seen[0].content)
    assert again.facts == seen[0].facts
    assert again.id.endswith(MARK)


@pytest.mark.parametrize("is_transformed_then", [True, False])
async def test_settings_change_between_two_tries(tmp_path, is_transformed_then):
    """A batch in hand goes out as it was planned, whether functions came or went since."""
    log = open_log(tmp_path)
    append_batch(log, *range(1, 40))
    name = f"{module(tmp_path, COUNTING)}:act"
    with_functions = lambda: options(tmp_path, name)  # noqa: E731
    without = lambda: {"spool": Spool(tmp_path / "state" / "transformed", "test")}  # noqa: E731
    before, after = (with_functions, without) if is_transformed_then else (without, with_functions)
    seen = []
    first = MemorySink()

    async def send(batch, _placement):
        seen.append(batch)
        raise SinkUnavailable("down")

    first.send = send
    async with shipping(tmp_path, log, first, grace_s=0, **before()):
        await until(lambda: seen)
    sink = MemorySink()
    async with shipping(tmp_path, log, sink, **after()):
        await until(lambda: sink.sent)
    assert sink.sent[0][0].content == seen[0].content


async def test_a_kept_batch_that_is_gone(tmp_path, caplog):
    """Where somebody took away what was kept, the events are transformed again, and it is said."""
    log = open_log(tmp_path)
    append_batch(log, *range(1, 40))
    name = f"{module(tmp_path, COUNTING)}:act"
    first = MemorySink()
    first.send_faults.extend([SinkUnavailable("down")] * 1_000_000)
    async with shipping(tmp_path, log, first, grace_s=0, **options(tmp_path, name)):
        await until(lambda: first.calls)
    for path in (tmp_path / "state" / "transformed").iterdir():
        path.unlink()
    sink = MemorySink()
    async with shipping(tmp_path, log, sink, **options(tmp_path, name)):
        await until(lambda: sink.sent)
    assert numbers_of(sink.lines) == expected(range(1, 40))
    assert "a kept batch is gone, made again" in caplog.text


async def test_a_sink_refuses_what_a_function_made(tmp_path):
    """Refused events are set aside as they were made; the rest of the batch arrives."""
    log, sink = open_log(tmp_path), MemorySink()
    append_batch(log, *range(1, 20))
    taken = sink.send

    async def send(batch, placement):
        bad = [n for n, line in enumerate(batch.lines()) if b'"n":8,' in line]
        if bad:
            raise SinkRejected("no", indexes=bad)
        await taken(batch, placement)

    sink.send = send
    own = options(tmp_path, f"{module(tmp_path, COUNTING)}:act")
    async with shipping(tmp_path, log, sink, **own) as shipper:
        await until(lambda: not shipper.lag_bytes)
    assert numbers_of(sink.lines) == [n for n in expected(range(1, 20)) if n != 8]
    (letter,) = [each for each in letters_of(tmp_path) if each["reason"] == "sink_rejected"]
    assert letter["item"]["n"] == 8
    assert "said" in letter["item"]


async def test_a_file_that_cannot_be_loaded_holds_events(tmp_path, monkeypatch):
    """While a function can't be loaded nothing is sent, and all is once it can."""
    monkeypatch.setattr("segsrv.delivery.attempts.RETRY_S_MIN", 0.001)
    log, sink = open_log(tmp_path), MemorySink()
    lines = append(log, *range(5))
    name = module(tmp_path, "import nothing_of_this_name\n")
    own = options(tmp_path, f"{name}:act")
    async with shipping(tmp_path, log, sink, **own) as shipper:
        await until(lambda: shipper.state == "retrying")
        assert "nothing_of_this_name" in shipper.message
        (tmp_path / f"{name}.py").write_text("def act(event, context):\n    return event\n")
        await until(lambda: sink.lines == lines)
        assert shipper.state == "ok"


async def test_slow_functions_get_small_batches(tmp_path, monkeypatch):
    """Batches begin small, grow while they are quick, and shrink when they are slow."""
    log, sink = open_log(tmp_path), MemorySink()
    append_batch(log, *range(1_000))
    monkeypatch.setattr(ways, "FIRST_EVENTS", 8)
    name = f"{module(tmp_path, SAME)}:act"
    async with shipping(tmp_path, log, sink, **options(tmp_path, name)):
        await until(lambda: len(sink.lines) == 1_000)
    sizes = [batch.events for batch, _placement in sink.sent]
    assert sizes[:4] == [8, 16, 32, 64]
    monkeypatch.setattr(ways, "SLOW_S", 0.0)
    append_batch(log, *range(1_000, 1_020))
    slow = MemorySink()
    async with shipping(tmp_path, log, slow, **options(tmp_path, name)):
        await until(lambda: len(slow.lines) == 20)
    assert [batch.events for batch, _placement in slow.sent] == [8] + [1] * 12


def stored(directory: Path) -> list[bytes]:
    paths = sorted((directory / "events").glob("**/*.ndjson"))
    return [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]


class TestFiles:
    """The sink that otherwise compares what it has with what comes next."""

    async def test_functions_come_and_go(self, tmp_path):
        """With functions and without, with clean ends and others, each event is stored once."""
        log = open_log(tmp_path)
        name = f"{module(tmp_path, SAME)}:act"
        total = 0
        for number in range(8):
            append_batch(log, *range(total, total + 50))
            total += 50
            own = (
                options(tmp_path, name)
                if number % 3
                else {"spool": options(tmp_path, name)["spool"]}
            )
            sink = FileSink(tmp_path / "events")
            async with shipping(tmp_path, log, sink, grace_s=10.0 if number % 2 else 0.0, **own):
                if number % 4 != 2:
                    await until(lambda: len(stored(tmp_path)) >= total)  # noqa: B023
        sink = FileSink(tmp_path / "events")
        async with shipping(tmp_path, log, sink, **options(tmp_path, name)):
            await until(lambda: len(stored(tmp_path)) >= total)
        assert sorted(numbers_of(stored(tmp_path))) == list(range(total))

    async def test_a_written_batch_that_no_cursor_knows(self, tmp_path):
        """What was stored before a crash without functions is not stored again with them."""
        log = open_log(tmp_path)
        append_batch(log, *range(50))
        name = f"{module(tmp_path, COUNTING)}:act"
        first = tmp_path / "state" / "sinks" / "test.cursor"
        sink = FileSink(tmp_path / "events")
        spool = options(tmp_path, name)["spool"]
        async with shipping(tmp_path, log, sink, spool=spool):
            await until(lambda: len(stored(tmp_path)) == 50)
        old = first.read_bytes()
        append_batch(log, *range(50, 90))
        sink = FileSink(tmp_path / "events")
        async with shipping(tmp_path, log, sink, spool=spool):
            await until(lambda: len(stored(tmp_path)) == 90)
        first.write_bytes(old)
        append_batch(log, *range(90, 120))
        sink = FileSink(tmp_path / "events")
        async with shipping(tmp_path, log, sink, **options(tmp_path, name)) as shipper:
            await until(lambda: not shipper.lag_bytes)
        assert numbers_of(stored(tmp_path)) == [*range(90), *expected(range(90, 120))]
