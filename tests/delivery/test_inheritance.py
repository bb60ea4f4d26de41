"""What a delivery takes over: cursors of earlier releases, and those of mounted applications."""

import json

from segsrv.delivery.cursor import Cursor, CursorFile, Mark, Span
from segsrv.delivery.inheritance import ANY_ID, inherit

ID = "a" * 32


def save(path, **spans: Span) -> None:
    file = CursorFile(path)
    file.save(Cursor(spans, {"number": 1}))
    file.close()


def old(folder, journal: str, start: int, end: int) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    content = {"start": start, "end": end, "placement": {"file": "x", "offset": 0, "bytes": 3}}
    (folder / f"{journal}-file.json").write_text(json.dumps(content))


def test_cursors_of_earlier_releases_are_taken_over(tmp_path):
    """Each journal goes on where its own cursor stood, and what was being sent comes first."""
    old(tmp_path, "w0", 10, 10)
    old(tmp_path, "w1", 20, 30)
    old(tmp_path, "w2", 5, 6)
    folder = tmp_path / "sinks"

    found = inherit(folder, "file", folder / "file.cursor", None, ["w0", "w1"])

    assert found.marks == {"w0": (ANY_ID, Mark(10)), "w1": (ANY_ID, Mark(20))}
    (sending,) = found.sending
    assert sending.spans == {"w1": Span(ANY_ID, Mark(20), Mark(30))}
    assert sending.placement["bytes"] == 3
    found.forget()
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["w2-file.json"]


def test_a_damaged_cursor_of_an_earlier_release_is_logged(tmp_path, caplog):
    """Wrong JSON, wrong types and wrong ranges all mean: deliver again what is held."""
    for number, text in enumerate(("{", '{"start": "1", "end": 2, "placement": {}}', "[]")):
        (tmp_path / f"w{number}-file.json").write_text(text)
    old(tmp_path, "w3", 9, 3)
    folder = tmp_path / "sinks"

    found = inherit(folder, "file", folder / "file.cursor", None, [f"w{n}" for n in range(4)])

    assert not found.marks
    assert not found.sending
    assert caplog.text.count("delivering again what is held") == 4


def test_cursors_of_mounted_applications_are_taken_over(tmp_path):
    """One delivery for all goes on for those that had one journal each."""
    folder = tmp_path / "sinks"
    save(folder / "file@w0.cursor", w0=Span(ID, Mark(10), Mark(15)))
    save(folder / "file@w1.cursor", w1=Span(ID, Mark(20, 3), Mark(20, 3)))
    save(folder / "file-1234@w1.cursor", w1=Span(ID, Mark(99), Mark(99)))

    found = inherit(folder, "file", folder / "file.cursor", None, ["w0", "w1"])

    assert found.marks == {"w0": (ID, Mark(10)), "w1": (ID, Mark(20, 3))}
    assert [cursor.spans for cursor in found.sending] == [{"w0": Span(ID, Mark(10), Mark(15))}]


def test_a_mounted_application_takes_only_its_own_part(tmp_path):
    """What was being sent of several journals can't be sent as it was, so it begins again."""
    folder = tmp_path / "sinks"
    save(
        folder / "file.cursor",
        w0=Span(ID, Mark(10), Mark(15)),
        w1=Span(ID, Mark(20), Mark(25)),
    )

    found = inherit(folder, "file", folder / "file@w0.cursor", None, ["w0"])
    found.forget()

    assert found.marks == {"w0": (ID, Mark(10))}
    assert not found.sending
    assert (folder / "file.cursor").exists(), "the other application's part is in it"


def test_what_was_being_sent_is_left_out_where_another_cursor_has_gone_on(tmp_path):
    """Sent again it would be doubled, and so would all that was delivered since."""
    folder = tmp_path / "sinks"
    save(folder / "file@w0.cursor", w0=Span(ID, Mark(500), Mark(500)))
    spans = {"w0": Span(ID, Mark(100), Mark(200)), "w1": Span(ID, Mark(10), Mark(20))}

    found = inherit(folder, "file", folder / "file.cursor", Cursor(spans), ["w0", "w1"])

    assert found.marks == {"w0": (ID, Mark(500)), "w1": (ID, Mark(10))}
    assert not found.sending


def test_its_own_cursor_wins_where_it_is_further(tmp_path):
    """A cursor that was left behind long ago takes nobody back."""
    folder = tmp_path / "sinks"
    save(folder / "file@w0.cursor", w0=Span(ID, Mark(10), Mark(15)))
    own = Cursor({"w0": Span(ID, Mark(50), Mark(50))})
    found = inherit(folder, "file", folder / "file.cursor", own, ["w0"])
    assert found.marks == {"w0": (ID, Mark(50))}
    assert not found.sending
