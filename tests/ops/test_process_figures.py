"""What is asked of the system for the metrics: in a thread, one at a time, and not for long."""

import os
import threading

from segsrv.journal.dead_letters import DeadLetters
from segsrv.ops import process_figures
from segsrv.ops.process_figures import ProcessFigures


def told(figures, name):
    (rows,) = [rows for found, _kind, _text, rows in figures.families() if found == name]
    return {labels.get("sink", ""): value for _suffix, labels, value in rows}


async def test_the_process_tells_of_itself():
    """Memory, files and the start are this process's own."""
    figures = ProcessFigures(dict)
    await figures.look()

    assert told(figures, "process_resident_memory_bytes")[""] > 1 << 20
    assert told(figures, "process_open_fds")[""] <= told(figures, "process_max_fds")[""]
    seconds = sum(os.times()[:2])
    assert 0 < told(figures, "process_cpu_seconds")[""] <= seconds + 0.1


async def test_letters_are_told_by_what_is_on_the_disk(tmp_path):
    """Bytes are those of all files, also of an earlier process; letters are this process's."""
    earlier = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
    earlier.append([b'{"a":1}\n'])
    own = DeadLetters(tmp_path, prefix="w0", bytes_max=1 << 20)
    figures = ProcessFigures(lambda: {"": own, "a": DeadLetters(tmp_path, prefix="b", bytes_max=1)})
    await figures.look()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert told(figures, "segsrv_dead_letter_bytes") == {"": size, "a": 0}
    assert told(figures, "segsrv_dead_letters") == {"": 0, "a": 0}

    own.append([b'{"a":2}\n', b'{"a":3}\n'])
    await figures.look()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert told(figures, "segsrv_dead_letter_bytes") == {"": size, "a": 0}
    assert told(figures, "segsrv_dead_letters") == {"": 2, "a": 0}


async def test_a_disk_that_hangs_is_asked_once_and_not_waited_for(monkeypatch):
    """Scrapes go on with what was found last, and no more threads wait for the disk."""
    monkeypatch.setattr(process_figures, "LOOK_S_MAX", 0.01)
    is_there, asked = threading.Event(), []

    class Hung:
        letters = 0

        def held_bytes(self):
            asked.append(1)
            is_there.wait()
            return 7

    figures = ProcessFigures(lambda: {"a": Hung()})
    try:
        for _ in range(3):
            await figures.look()
        assert told(figures, "segsrv_dead_letter_bytes") == {}
        assert len(asked) == 1
    finally:
        is_there.set()
    while not told(figures, "segsrv_dead_letter_bytes"):
        await figures.look()
    assert told(figures, "segsrv_dead_letter_bytes") == {"a": 7}
