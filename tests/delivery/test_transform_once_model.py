"""The sink that stores with its batch's id, with functions that never say the same twice before it.

Each seed is a history of its own, as in `test_once_model.py`: lost answers, refusals, ends at any
moment, lost cursors, and functions that come and go. What was made of an event by one call is then
stored once as a whole, or in the dead letters, and never beside what another call made.
"""

import json
import random
from collections import defaultdict

import pytest

from segsrv.delivery import attempts, transforming
from segsrv.delivery.believing import stood_at
from tests.delivery import test_once_model as plain
from tests.delivery.shipping import append_batch, cursor_path, open_log, shipping
from tests.delivery.test_transforming import options
from tests.transform.hostile import module
from tests.waiting import until

SEEDS = 8
LIVES = 10
FUNCTION = """
import os, secrets

def act(event, context):
    n = event["n"]
    if n % 5 == 0:
        return None
    if n % 11 == 0:
        raise ValueError(n)
    if n % 101 == 0:
        os._exit(1)
    call = secrets.token_hex(8)
    return [{"n": n, "call": call, "part": part} for part in range(n % 3 + 1)]
"""


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_S_MIN", 0.0001)
    monkeypatch.setattr(transforming, "FIRST_EVENTS", 16)
    # The mark of a transformed batch has a dash of its own.
    monkeypatch.setattr(plain, "PART_DASHES", 3)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_what_one_call_made_is_there_once(tmp_path, seed):
    """Whatever fails, and in whichever order."""
    source, database = random.Random(seed), plain.Database()
    function = f"{module(tmp_path, FUNCTION)}:act"
    total = 0
    for life in range(LIVES):
        log = open_log(tmp_path)
        is_last = life == LIVES - 1
        for _frame in range(source.randint(0, 4)):
            size = source.randint(1, 30)
            append_batch(log, *range(total, total + size))
            total += size
        sink = plain.TransactionalSink(database, source, is_calm=is_last)
        async with shipping(
            tmp_path,
            log,
            sink,
            grace_s=10 if is_last else 0,
            timeout_s=plain.TIMEOUT_S if not is_last else 10,
            flush_events_max=source.choice([10, 50, 1_000]),
            is_ours=lambda _name, *moment, log=log: stood_at(log.directory, *moment),
            **options(tmp_path, function),
        ) as shipper:
            calls = source.randint(0, 12)
            await until(
                lambda shipper=shipper, sink=sink, calls=calls, is_last=is_last: (
                    shipper.standing.is_known
                    and (shipper.lag_bytes == 0 or (sink.calls >= calls and not is_last))
                )
            )
        log.close()
        if not is_last:
            plain.damage(cursor_path(tmp_path), source, database.last)
    check(tmp_path, database.rows, total)


def check(directory, rows, total) -> None:
    stored = defaultdict(list)
    for row in map(json.loads, rows):
        stored[row["n"]].append((row["call"], row["part"]))
    failed, refused = set(), defaultdict(set)
    for file in sorted((directory / "dead-letter").glob("*.ndjson")):
        for letter in map(json.loads, file.read_bytes().splitlines()):
            item = letter["item"]
            if letter["reason"] == "sink_rejected":
                refused[item["n"]].add((item["call"], item["part"]))
            else:
                failed.add(item["n"])
    for n in range(total):
        assert len(stored[n]) == len(set(stored[n])), "stored twice"
        if n % 5 == 0:
            assert not stored[n]
            assert n not in failed
        elif n % 11 == 0 or n % 101 == 0:
            assert not stored[n]
            assert n in failed
        else:
            made = set(stored[n]) | refused[n]
            assert {part for _call, part in made} == set(range(n % 3 + 1)), "not all there"
            assert len({call for call, _part in stored[n]}) <= 1, "of several calls"
