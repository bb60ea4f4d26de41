"""A part of a journal that was set aside and is delivered goes as a whole, or not at all."""

import itertools

from segsrv.commands import standing
from segsrv.commands.standing import Part
from segsrv.delivery.cursor import Mark
from segsrv.settings import Settings
from tests.power.disk import Disk


def test_a_part_is_there_as_a_whole_or_not_at_all(tmp_path):
    """Before each call into the disk; one that came back in pieces could not be sent again."""
    root = tmp_path / "root"
    folder = root / "set-aside" / "sink" / "20261125T100000-w0-1"
    (folder / "w0").mkdir(parents=True)
    names = ["range.json", "w0/1.segment", "w0/2.segment"]
    for name in names:
        (folder / name).write_text(name)
    part = Part("sink", folder, "w0", Mark(0), Mark(1), 1, "")
    numbers = itertools.count()

    def states():
        target = tmp_path / f"states-{next(numbers)}"
        target.mkdir()
        for _name, state in disk.states(target, range(3)):
            yield state

    with Disk(root) as disk:

        def check() -> None:
            for state in states():
                left = state / folder.relative_to(root)
                assert not left.exists() or all((left / name).exists() for name in names)

        disk.watch = check
        standing.delete(part)
        disk.watch = lambda: None
        standing.finish_deleting(Settings(data_dir=root))
        for state in states():
            assert not (state / folder.relative_to(root)).exists()
