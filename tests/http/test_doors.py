"""Both doors of a server answer alike and store alike, whatever is sent and however it is cut."""

from tests.http.doors import both_doors

CONVERSATIONS = 250
SEED = 7


def test_both_doors_do_the_same(tmp_path):
    """Answers are the same bytes, but for dates; lines are the same, but for what is made."""
    with both_doors(tmp_path) as doors:
        report = doors.run(CONVERSATIONS, SEED)
    assert report.faults == [], report
    assert {"200", "400", "401", "404"} <= set(report.statuses)
    assert report.lines > CONVERSATIONS
