"""The deduplication index against lists: it judges as they do, however often it is killed."""

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from segsrv.delivery.dedup import DedupIndex, Sent
from tests.delivery.dedup_events import NOON_MS

PARTS = 6
CAPACITIES = st.integers(20, 30)
WINDOWS_S = st.sampled_from([0, 10, 60, 100_000])


def some_id(rng: random.Random) -> str:
    """Return one of a few ids, one of many, or none."""
    return rng.choice(["", f"hot-{rng.randrange(9)}", *[f"cold-{rng.randrange(500)}"] * 3])


def request(rng: random.Random, position: int, now_s: int) -> Sent:
    ids = [some_id(rng) for _ in range(rng.randrange(9))]
    return Sent(
        key_id=rng.choice(["web", "app"]),
        format=rng.choice(["flat", "compat"]),
        received_ms=NOON_MS + (now_s + rng.randrange(-30, 90)) * 1000,
        journal_id=rng.choice(["1", "2"]) * 32,
        ids=ids,
        positions=range(position, position + len(ids)),
    )


class IndexModel(RuleBasedStateMachine):
    """`parts` is the model: lists of (identity, origin, second), the newest part last."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="dedup-"))
        self.parts: list[list[tuple]] = []
        self.synced: list[list[tuple]] = []
        self.batch: list[Sent] = []
        self.mask = b""
        self.now_s = 0
        self.position = 0
        self.duplicates = 0

    @initialize(capacity=CAPACITIES, window_s=WINDOWS_S)
    def open(self, capacity, window_s):
        self.capacity, self.window_s = capacity, window_s
        self.index = self.reopened()

    def reopened(self) -> DedupIndex:
        return DedupIndex(
            self.directory, window_s=self.window_s, ids_max=PARTS * self.capacity, file_mode=0o640
        )

    def is_kept(self, identity, origin, second) -> bool:
        if not identity[-1]:
            return True
        known = [rest for part in self.parts for seen, *rest in part if seen == identity]
        if any(seen == origin for seen, _second in known):
            return True
        if any(abs(second - seen_second) <= self.window_s for _origin, seen_second in known):
            self.duplicates += 1
            return False
        if not self.parts or len(self.parts[-1]) == self.capacity:
            self.parts.append([])
        self.parts[-1].append((identity, origin, second))
        return True

    def expected(self, batch: list[Sent]) -> bytes:
        return bytes(
            self.is_kept(
                (sent.key_id, sent.format, event_id),
                (sent.journal_id, position),
                sent.received_ms // 1000,
            )
            for sent in batch
            for event_id, position in zip(sent.ids, sent.positions, strict=True)
        )

    def settle(self) -> None:
        """Delivery goes on: the cursor that covers the batch was saved."""
        assert self.index.sync()
        self.index.settle()
        while sum(map(len, self.parts[1:])) >= PARTS * self.capacity:
            del self.parts[0]
        self.batch, self.mask = [], b""
        self.synced = [list(part) for part in self.parts]

    @rule(seed=st.integers(0, 1 << 32), advance_s=st.integers(0, 40))
    def deliver(self, seed, advance_s):
        """The next batch is judged; the one before it is settled."""
        self.settle()
        self.now_s += advance_s
        rng = random.Random(seed)
        for _ in range(rng.randrange(1, 6)):
            sent = request(rng, self.position, self.now_s)
            self.position += len(sent.ids)
            self.batch.append(sent)
        self.mask = self.expected(self.batch)
        assert self.index.judge(self.batch) == self.mask

    @rule()
    def sync(self):
        assert self.index.sync()
        self.synced = [list(part) for part in self.parts]

    @rule()
    def judge_again(self):
        """The sink asks for the batch once more."""
        assert self.index.judge(self.batch) == self.mask
        self.duplicates += self.mask.count(0)

    @rule()
    def crash(self):
        """The process is killed: records that were not synced are gone, decisions are the same."""
        self.index.close()
        self.index = self.reopened()
        assert self.index.ids == sum(map(len, self.synced))
        self.parts = [list(part) for part in self.synced]
        self.duplicates = self.mask.count(0)
        assert self.expected(self.batch) == self.mask
        self.duplicates = self.mask.count(0)
        assert self.index.judge(self.batch) == self.mask

    @rule()
    def lose_the_tables(self):
        """The tables' files are only a cache."""
        for path in self.directory.glob("*.table"):
            path.unlink()

    @invariant()
    def counters_agree(self):
        if self.batch:
            assert self.index.ids == sum(map(len, self.parts))
            assert self.index.duplicates == self.duplicates
            assert self.index.unrecorded == self.index.damaged == self.index.set_aside == 0

    def teardown(self):
        self.index.close()
        shutil.rmtree(self.directory)


TestIndexModel = IndexModel.TestCase
TestIndexModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
