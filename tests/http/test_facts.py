"""What the journal knows of a request's events beside their lines, standalone and mounted."""

import json
import time

import pytest

from segsrv.journal import facts
from segsrv.journal.reader import Reader
from segsrv.settings.key import derived_key_id
from tests.site import COMPAT, FLAT, KEY, id_of, new_id

READ_BYTES = 1 << 30
HOUR_MS = 3_600_000


def known(site, *event_ids) -> list[tuple[facts.Facts, dict]]:
    """Return facts and stored event of each id that the journal holds, in the journal's order."""
    reader = Reader(site.process.data_dir / "journal" / "w0", keeps_damage=False)
    first = next(reader.view().since(0)).base
    found = []
    for stored in reader.read(first, bytes_max=READ_BYTES).frames:
        start = 0
        for fact in facts.each(stored.runs):
            line = bytes(stored.payload[start : start + fact.length])
            start += fact.length
            if fact.event_id in event_ids or not event_ids:
                found.append((fact, json.loads(line)))
        assert start == len(stored.payload)
    assert reader.damaged_frames == 0
    return found


class TestFacts:
    @pytest.mark.parametrize(("path", "name"), [(FLAT, "flat"), (COMPAT, "compat")])
    def test_of_a_batch(self, site, path, name):
        """Each stored event has its key's id, format, type, id and time."""
        ids = [new_id() for _ in range(4)]
        types = ["track", "page", "made-up", "track"]
        batch = [
            {"type": kind, "messageId": event_id} for kind, event_id in zip(types, ids, strict=True)
        ]
        batch.insert(2, 17)
        before_ms = time.time_ns() // 1_000_000
        assert site.post({"batch": batch}, path=path).status == 200

        found = known(site, *ids)

        assert [fact.event_id for fact, _event in found] == ids
        assert [id_of(event) for _fact, event in found] == ids
        assert [fact.type for fact, _event in found] == ["track", "page", "other", "track"]
        assert {(fact.key_id, fact.format) for fact, _event in found} == {
            (derived_key_id(KEY), name)
        }
        (received_ms,) = {fact.received_ms for fact, _event in found}
        assert abs(received_ms - before_ms) < HOUR_MS

    @pytest.mark.parametrize("message_id", [None, 17, {"a": 1}, "é\U0001f600", "x" * 5_000])
    def test_the_id_is_the_stored_one(self, site, message_id):
        """An id that the server made, or turned into text, is known as the event has it."""
        mark = new_id()
        event = {"type": "track", "userId": mark}
        if message_id is not None:
            event["messageId"] = message_id
        assert site.post(event).status == 200

        ((fact, stored),) = [pair for pair in known(site) if mark in json.dumps(pair[1])]

        assert fact.event_id
        assert fact.event_id == id_of(stored)
        assert fact.type == "track"
