"""What a command sends to a sink: tried again where that may help, split where some are refused."""

import asyncio

import pytest

from segsrv.commands import sending
from segsrv.commands.sending import Event, Refused, Sender
from segsrv.errors import SinkMisconfigured, SinkRejected, SinkUnavailable
from segsrv.journal.facts import Facts


class Memory:
    """A sink that keeps what it takes, refuses lines that it is told, and fails as it is told."""

    def __init__(self, *, refused=(), names_indexes=False, failures=()):
        self.taken: list[bytes] = []
        self.ids: list[str] = []
        self.placements: list[tuple] = []
        self._refused = set(refused)
        self._names_indexes = names_indexes
        self._failures = list(failures)
        self._good: int | None = None

    async def open(self):
        self._fail()

    async def plan(self, batch, last):
        return {"first": batch.id, "last": last.get("first")}

    async def send(self, batch, placement):
        self.ids.append(batch.id)
        self.placements.append(placement)
        self._fail()
        bad = [number for number, line in enumerate(batch.lines()) if line in self._refused]
        if bad:
            raise SinkRejected("too odd", indexes=bad if self._names_indexes else ())
        assert [fact.length for fact in batch.facts] == [len(line) for line in batch.lines()]
        self.taken += batch.lines()

    def send_failures_after(self, batches):
        self._good = batches

    def _fail(self):
        if self._good is not None and len(set(self.ids)) > self._good:
            raise SinkUnavailable("gone")
        if self._failures:
            raise self._failures.pop(0)


def lines(*numbers) -> list[bytes]:
    return [b'{"n":%d}\n' % number for number in numbers]


def events(count) -> list[Event]:
    return [
        Event(line, Facts("k", "flat", 1, "track", len(line), "id"))
        for line in lines(*range(count))
    ]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(sending, "RETRY_S_MIN", 0.0)


def sender(sink) -> Sender:
    return Sender("memory", sink, timeout_s=5.0)


class TestRefused:
    @pytest.mark.parametrize("names_indexes", [False, True])
    @pytest.mark.parametrize("bad", [[0], [7], [3, 4], [0, 2, 5], list(range(8))])
    async def test_all_others_are_delivered_in_order(self, bad, names_indexes):
        """What the sink refuses is found, whether it says which ones or not."""
        sink = Memory(refused=lines(*bad), names_indexes=names_indexes)
        taken = []
        refused = await sender(sink).send(events(8), taken.extend)

        assert refused == [Refused(number, "too odd") for number in bad]
        assert sink.taken == lines(*(number for number in range(8) if number not in bad))
        assert taken == [number for number in range(8) if number not in bad]
        assert len(set(sink.ids)) == len(sink.ids)

    async def test_one_of_many_is_found_in_few_steps(self):
        """Halves, not one by one."""
        sink = Memory(refused=lines(777))
        await sender(sink).send(events(1_000), [].extend)

        assert len(sink.ids) <= 21


class TestFailures:
    async def test_the_same_batch_is_sent_again(self):
        """Under the same id and placement, for a sink that stored it before it failed."""
        sink = Memory(failures=[SinkUnavailable("busy"), OSError(5, "Input/output error")])
        await sender(sink).send(events(2), [].extend)

        assert sink.taken == lines(0, 1)
        assert len(sink.ids) == 3
        assert len(set(sink.ids)) == 1
        assert all(placement == sink.placements[0] for placement in sink.placements)

    async def test_it_is_given_up_after_some_tries(self):
        """A command ends, and says which sink it was."""
        sink = Memory(failures=[SinkUnavailable("busy")] * 99)
        with pytest.raises(SinkUnavailable, match="sink memory: busy"):
            await sender(sink).send(events(1), [].extend)
        assert len(sink.ids) == sending.TRIES

    async def test_a_sink_that_asks_for_time_gets_it(self, monkeypatch):
        """A command waits as long as it is told, but not for hours."""
        waits = []

        async def note(delay_s):
            waits.append(delay_s)

        monkeypatch.setattr(asyncio, "sleep", note)
        asked = [SinkUnavailable("busy", retry_after_s=asked_s) for asked_s in (5, 0, 9_999)]
        await sender(Memory(failures=asked)).send(events(1), [].extend)

        assert waits == [5, 0, sending.RETRY_AFTER_S_MAX]

    async def test_what_was_taken_before_is_known(self):
        """It need not be sent again when the rest is."""
        sink = Memory(refused=lines(0))
        taken = []
        sends = sender(sink)
        sink.send_failures_after(4)
        with pytest.raises(SinkUnavailable):
            await sends.send(events(4), taken.extend)
        assert taken
        assert [b'{"n":%d}\n' % number for number in taken] == sink.taken

    async def test_what_is_misconfigured_is_not_tried_again(self):
        """Only somebody who mends the settings can help."""
        sink = Memory(failures=[SinkMisconfigured("no such table")])
        with pytest.raises(SinkMisconfigured, match="no such table"):
            await sender(sink).send(events(1), [].extend)
        assert len(sink.ids) == 1

    async def test_a_sink_that_never_answers_has_a_limit(self):
        """A call that hangs is a failed one."""

        class Silent(Memory):
            async def send(self, _batch, _placement):
                await asyncio.Event().wait()

        with pytest.raises(SinkUnavailable, match=r"no answer within 0\.01 s"):
            await Sender("silent", Silent(), timeout_s=0.01).send(events(1), [].extend)

    async def test_a_placement_follows_the_one_before(self):
        """The sink may go on in the same file."""
        sink = Memory()
        sends = sender(sink)
        await sends.send(events(1), [].extend)
        await sends.send(events(1), [].extend)

        assert [placement["last"] for placement in sink.placements] == [None, sink.ids[0]]
