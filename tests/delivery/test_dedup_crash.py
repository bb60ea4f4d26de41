"""The deduplication index after kill -9, and after power cuts that lose what was not synced."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.delivery import dedup_child
from tests.delivery.dedup_events import kept, open_index, sent

BLOCK_BYTES = 4096


class Power:
    """Knows what of each file is on stable storage, and gives the disk after a power cut.

    Of what was not synced any blocks may be there. The names of files are taken to be there.
    """

    def __init__(self, monkeypatch):
        self.durable: dict[Path, bytes] = {}
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, sync):
        def noted(fd):
            sync(fd)
            path = Path(f"/proc/self/fd/{fd}").readlink()
            if path.is_file():
                # Its name of later, by which it is looked for.
                path_then = path.with_name(path.name.removesuffix(".tmp"))
                self.durable[path_then] = path.read_bytes()

        return noted

    def cut(self, folder: Path, into: Path, rng: random.Random) -> None:
        into.mkdir()
        for path in folder.iterdir():
            written = path.read_bytes()
            data = bytearray(self.durable.get(path, b""))
            for start in range(0, len(written), BLOCK_BYTES):
                if rng.random() < 0.5:
                    data.extend(bytes(max(0, start - len(data))))
                    data[start : start + BLOCK_BYTES] = written[start : start + BLOCK_BYTES]
            (into / path.name).write_bytes(data)


class TestPowerCut:
    @pytest.mark.parametrize("seed", range(20))
    def test_what_was_synced_is_known(self, tmp_path, monkeypatch, seed):
        """After a cut at any time, all that a cursor may cover is known, and the rest judged anew.

        Here batches of some hundred new ids are judged, each with some ids of before.
        """
        rng = random.Random(seed)
        power = Power(monkeypatch)
        folder = tmp_path / "0"
        index = open_index(folder, ids_max=3_000)
        known: list[str] = []
        for turn in range(12):
            news = [f"{turn}-{number}" for number in range(rng.randrange(400))]
            olds = rng.sample(known, min(len(known), 20))
            batch = [
                sent(*news, position=turn * 10_000),
                sent(*olds, position=turn * 10_000 + 5_000),
            ]
            assert kept(index, *batch) == news
            is_synced = rng.random() < 0.7
            if is_synced:
                assert index.sync()
            if rng.random() < 0.4:
                if not is_synced:
                    # In the middle of a sync: everything is written, nothing is sure.
                    with monkeypatch.context() as patch:
                        patch.setattr(os, "fdatasync", lambda _fd: None)
                        index.sync()
                power.cut(folder, tmp_path / f"{turn + 1}", rng)
                index.close()
                folder = tmp_path / f"{turn + 1}"
                index = open_index(folder, ids_max=3_000)
                assert index.set_aside == 0
                power.durable = {path: path.read_bytes() for path in folder.iterdir()}
                assert kept(index, *batch) == news
            assert index.sync()
            index.settle()
            known = (known + news)[-3_000:]
        assert kept(index, sent(*known, position=900_000)) == []
        index.close()


class TestKill:
    def test_each_id_is_kept_once(self, tmp_path):
        """However often the process is killed, each batch is decided once and each id kept once."""
        command = [sys.executable, "-m", "tests.delivery.dedup_child", str(tmp_path)]
        rng = random.Random(7)
        for _ in range(8):
            number = dedup_child.next_number(tmp_path)
            with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
                assert child.stdout.readline() == b"open\n"
                deadline = time.monotonic() + 60
                while dedup_child.next_number(tmp_path) < number + rng.randrange(1, 5):
                    assert child.poll() is None
                    assert time.monotonic() < deadline
                child.send_signal(signal.SIGKILL)
            index = dedup_child.open_index(tmp_path)
            assert (index.set_aside, index.damaged) == (0, 0)
            number = dedup_child.next_number(tmp_path)
            # The last batch again, as after a crash before its cursor was saved.
            before = (tmp_path / f"{number - 1}").read_bytes()
            assert index.judge(dedup_child.batch(number - 1)) == before
            dedup_child.deliver(tmp_path, index, number)
            index.close()

        seen = set()
        for number in range(dedup_child.next_number(tmp_path)):
            mask = (tmp_path / f"{number}").read_bytes()
            for event_id, is_kept in zip(dedup_child.batch(number)[0].ids, mask, strict=True):
                assert bool(is_kept) == (event_id not in seen)
                seen.add(event_id)
