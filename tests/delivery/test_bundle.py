"""What is read for one batch: its limits, its share of each journal, and the same again."""

import random
from contextlib import ExitStack

import orjson
import pytest

from segsrv.delivery import bundle as bundles
from segsrv.delivery.bundle import Filter, Limits, batch_of
from segsrv.delivery.cursor import Mark
from segsrv.delivery.source import LeftSource
from segsrv.journal.facts import Facts, Run, encode, join
from segsrv.settings import Key, SinkConfig
from segsrv.sinks.base import Batch
from tests.delivery.shipping import append_batch, open_log

MIB = 1 << 20
LARGE = Limits(1_000, MIB, 1.0)


@pytest.fixture
def sources(tmp_path):
    with ExitStack() as stack:
        found = []
        for number in range(3):
            log = open_log(tmp_path / f"w{number}", segment_bytes_max=500)
            stack.callback(log.close)
            found.append(LeftSource(f"w{number}", log, retention_s=0))
        yield found


def log_of(source: LeftSource):
    return source._log


def starts(sources) -> dict[str, Mark]:
    return {source.name: Mark(0) for source in sources}


def lines_of(bundle) -> list[bytes]:
    return batch_of(bundle.batch_id(), bundle.slices).lines()


class TestRead:
    def test_all_journals_share_a_batch(self, sources):
        """Journals that grew are read together, and none pushes another out."""
        expected = []
        for number, source in enumerate(sources):
            expected += append_batch(log_of(source), *range(100 * number, 100 * number + 60))
        bundle = bundles.read(sources, starts(sources), Limits(1_000, MIB, 0))
        assert lines_of(bundle) == expected

        some = bundles.read(sources, starts(sources), Limits(1_000, 600, 0))
        assert {part.journal_id for part in some.slices} == {source.id for source in sources}

    @pytest.mark.parametrize("events_max", [1, 7, 100])
    def test_every_event_comes_once_in_order_whatever_the_limits_are(self, sources, events_max):
        """Marks carry on within a frame, so limits smaller than a frame hold too."""
        chance = random.Random(events_max)
        expected = {source.name: [] for source in sources}
        for number in range(30):
            source = chance.choice(sources)
            numbers = range(number * 1_000, number * 1_000 + chance.randrange(1, 30))
            expected[source.name] += append_batch(log_of(source), *numbers)
        marks, found = starts(sources), []
        while True:
            bundle = bundles.read(sources, marks, Limits(events_max, 200, 0))
            if not bundle.events and all(
                source.end <= marks[source.name].position for source in sources
            ):
                break
            lines = lines_of(bundle)
            assert len(lines) == bundle.events <= events_max
            assert len(lines) <= 1 or sum(map(len, lines)) <= 200
            found += lines
            again = bundles.read_again({s.name: s for s in sources}, bundle.spans)
            assert lines_of(again) == lines
            assert again.batch_id() == bundle.batch_id()
            marks |= {name: span.end for name, span in bundle.spans.items()}
        for lines in expected.values():
            assert [line for line in found if line in set(lines)] == lines
        assert len(found) == sum(map(len, expected.values()))

    def test_no_more_than_a_step_is_read(self, sources):
        """A writer gets little at once, of each journal a share, and misses nothing."""
        expected = {source.name: [] for source in sources}
        for number in range(300):
            source = sources[0] if number < 100 else sources[number % 3]
            expected[source.name] += append_batch(log_of(source), number)
        marks, found, limits = starts(sources), [], Limits(1_000, MIB, 0, step_bytes=900)
        while (bundle := bundles.read(sources, marks, limits)).spans:
            assert sum(map(len, lines_of(bundle))) <= 900
            grown = {s.name for s in sources if s.end > marks[s.name].position}
            assert bundle.spans.keys() == grown
            found += lines_of(bundle)
            marks |= {name: span.end for name, span in bundle.spans.items()}
        for lines in expected.values():
            assert [line for line in found if line in set(lines)] == lines
        assert len(found) == 300

    def test_a_frame_that_is_larger_than_a_step_is_read_once(self, sources):
        """Cut to size, it would be read from its start for each piece; it is enough by itself."""
        frames = [append_batch(log_of(source), *range(500)) for source in sources]
        limits = Limits(10_000, MIB, 0, step_bytes=900)
        for turn, lines in enumerate(frames):
            turned = sources[turn:] + sources[:turn]
            assert lines_of(bundles.read(turned, starts(sources), limits)) == lines

    def test_a_step_takes_no_more_than_a_batch(self, sources):
        """Settings may ask for batches that are smaller than a step."""
        append_batch(log_of(sources[0]), *range(500))
        limits = Limits(1_000, 400, 0).in_steps()
        assert limits.enough_bytes == 400
        bundle = bundles.read(sources, starts(sources), limits)
        assert 0 < sum(map(len, lines_of(bundle))) <= 400

    def test_events_are_shared_as_bytes_are(self, sources):
        """A journal with more than a batch full of events leaves room for the others' too."""
        for source in sources:
            append_batch(log_of(source), *range(100))
        bundle = bundles.read(sources, starts(sources), Limits(10, MIB, 0))
        assert {part.journal_id for part in bundle.slices} == {source.id for source in sources}
        assert bundle.events == 10

    def test_a_batch_is_the_same_whatever_order_a_cursor_names_journals_in(self, sources):
        """A cursor names journals in the order in which they had their first event."""
        for number, source in enumerate(sources):
            append_batch(log_of(source), number)
        turned = [*sources[1:], sources[0]]
        bundle = bundles.read(turned, starts(sources), Limits(100, MIB, 0))
        spans = dict(reversed(bundle.spans.items()))
        again = bundles.read_again({source.name: source for source in sources}, spans)
        assert lines_of(again) == lines_of(bundle)
        assert again.batch_id() == bundle.batch_id()

    def test_a_journal_that_finds_no_room_is_no_part_of_a_batch(self, sources):
        """Its span would be in the id that is sent, and not in that of the same batch again."""
        append_batch(log_of(sources[0]), 1, 2)
        marks = starts(sources) | {"w1": Mark(log_of(sources[1]).end + 64)}
        log_of(sources[1]).append(b'{"n":"%s"}\n' % (b"x" * 500), 1)
        bundle = bundles.read(sources, marks, Limits(100, 300, 0))
        assert set(bundle.spans) == {"w0"}

    def test_another_range_has_another_id(self, sources):
        """No two batches of one sink are called the same, and the name fits where names go."""
        append_batch(log_of(sources[0]), *range(10))
        ids = {
            bundles.read(sources, starts(sources), Limits(events_max, MIB, 0)).batch_id()
            for events_max in range(1, 11)
        }
        assert len(ids) == 10
        assert all(len(batch_id) <= 100 and batch_id.isalnum() for batch_id in ids)


class TestFilter:
    def test_types_and_keys_are_picked_by_facts(self, sources):
        """A sink gets the events of its types and keys only; the lines are not looked at."""
        log = log_of(sources[0])
        append_batch(log, 1, 2, key_id="web", kind="track")
        append_batch(log, 3, key_id="app", kind="track")
        kinds = ["page", "track", "page"]
        lines = [b'{"n":%d}\n' % number for number in (4, 5, 6)]
        run = Run("web", "flat", 1, kinds, [len(line) for line in lines], ["a", "b", "c"])
        log.append(b"".join(lines), 3, join([encode(run)]))
        bundle = bundles.read(sources, starts(sources), Limits(100, MIB, 0))

        def picked(**options):
            parts = Filter(**options).pick(bundle.slices)
            return batch_of("x", parts).lines()

        def numbered(*numbers: int) -> list[bytes]:
            return [b'{"n":%d}\n' % number for number in numbers]

        assert picked(types=frozenset({"track"})) == numbered(1, 2, 3, 5)
        assert picked(key_ids=frozenset({"app"})) == numbered(3)
        assert picked(types=frozenset({"page"}), key_ids=frozenset({"web"})) == numbered(4, 6)
        assert picked(types=frozenset({"group"})) == []

    def test_facts_stand_beside_their_lines(self, sources):
        """A batch tells of each event what the journal knows, in the order of the lines."""
        append_batch(log_of(sources[0]), 1, 2, key_id="web", kind="page")
        bundle = bundles.read(sources, starts(sources), Limits(100, MIB, 0))
        batch = batch_of("x", bundle.slices)
        assert [(fact.key_id, fact.type, fact.event_id, fact.length) for fact in batch.facts] == [
            ("web", "page", "id-1", 8),
            ("web", "page", "id-2", 8),
        ]

    def test_each_event_has_its_own_facts(self, sources):
        """Events of one request, alone or not, are told apart by what the journal knows of each."""
        lines = [b'{"n":%d}\n' % number for number in range(5)]
        runs = [
            Run("web", "flat", 1, ["page"], [8], ["a"]),
            Run("web", "compat", 2, "track", [8, 8], ["b", "c"]),
            Run("app", "flat", 3, ["alias", "group"], [8, 8], ["d", "e"]),
        ]
        log_of(sources[0]).append(b"".join(lines), 5, join(map(encode, runs)))
        bundle = bundles.read(sources, starts(sources), Limits(4, MIB, 0))
        assert batch_of("x", bundle.slices).facts == [
            Facts("web", "flat", 1, "page", 8, "a"),
            Facts("web", "compat", 2, "track", 8, "b"),
            Facts("web", "compat", 2, "track", 8, "c"),
            Facts("app", "flat", 3, "alias", 8, "d"),
        ]

    @pytest.mark.parametrize("run", [["web", "flat", 1, "page", [8]], {"web": 1}, 7, "abcdef"])
    def test_facts_of_another_form_count_as_none(self, sources, run):
        """An event whose facts can't be read is delivered as one of which nothing is known."""
        log_of(sources[0]).append(b'{"n":1}\n', 1, orjson.dumps([run]))
        bundle = bundles.read(sources, starts(sources), Limits(4, MIB, 0))
        assert batch_of("x", bundle.slices).facts == [Facts("", "", 0, "", 8, "")]

    def test_only_a_newline_ends_a_line(self):
        """Lines are told apart by newlines; another line end is white space in a line."""
        batch = Batch("x", [b'{"n":1,\r\x0c"m":1}\n', memoryview(b'{"n":2}\n')], 2, list)
        assert batch.lines() == [b'{"n":1,\r\x0c"m":1}\n', b'{"n":2}\n']


class TestKeysWithSinks:
    def test_events_of_a_key_with_sinks_go_only_there(self, sources):
        """Another sink leaves them out, and what it lets through otherwise stays so."""
        web, app = Key(id="web", secret="a", sinks=("lake",)), Key(id="app", secret="b")
        config = SinkConfig.of(
            "file:", batch_bytes_max=1, batch_interval_s=1, retry_s_max=1, lag_bytes_max=1
        )
        for number, key_id in enumerate(("web", "app")):
            append_batch(log_of(sources[0]), number, key_id=key_id)
        slices = bundles.read(sources, starts(sources), LARGE).slices

        def picked(name):
            passing = Filter.of(config, name, (web, app)).pick(slices)
            return [fact.key_id for part in passing for fact in bundles.facts_of(part)]

        assert picked("lake") == ["web", "app"]
        assert picked("other") == ["app"]
