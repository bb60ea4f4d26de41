"""Dead letters that are taken out beside others: what stays, stays, whenever the power goes."""

import itertools

import pytest

from segsrv.journal import letters
from segsrv.journal.dead_letters import FILES, DeadLetters
from tests.power.disk import Disk

COUNT = 9


def line(number) -> bytes:
    return b'{"time":1,"number":%d}\n' % number


def numbers_in(directory) -> list[int]:
    return [
        letter.fields["number"]
        for path in letters.files(directory)
        for letter in letters.read(path)
    ]


def take_out(directory, numbers) -> None:
    for path in letters.files(directory):
        spans = [
            (letter.start, letter.end)
            for letter in letters.read(path)
            if letter.fields["number"] in numbers
        ]
        if spans:
            letters.remove(path, letters.joined(spans))


@pytest.mark.parametrize("taken", [{0}, {1, 4, 8}, {0, 1, 2}, {6, 7, 8}, set(range(COUNT))])
def test_what_is_not_taken_out_survives(tmp_path, taken):
    """Before each call into the disk, and what is taken out is gone for good at the end."""
    root = tmp_path / "root"
    root.mkdir()
    numbers = itertools.count()

    def states():
        folder = tmp_path / f"states-{next(numbers)}"
        folder.mkdir()
        for _name, state in disk.states(folder, range(3)):
            yield state

    with Disk(root) as disk:
        # Three letters a file.
        writer = DeadLetters(root, prefix="w0", bytes_max=FILES * 3 * (len(line(0)) - 1))
        for number in range(COUNT):
            writer.append([line(number)])
        assert len(letters.files(root)) == 3

        def check() -> None:
            for state in states():
                found = numbers_in(state)
                assert set(range(COUNT)) - taken <= set(found)
                assert len(set(found)) == len(found)

        disk.watch = check
        take_out(root, taken)
        disk.watch = lambda: None
        kept = sorted(set(range(COUNT)) - taken)
        for state in states():
            assert numbers_in(state) == kept
        writer.append([line(99)])
        for state in states():
            assert numbers_in(state) == [*kept, 99]
