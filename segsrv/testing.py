"""For the tests of people's own transformations: what a function makes of an event, here and now.

from segsrv.testing import apply

def test_bots_are_dropped():
    assert apply(drop_bots, {"parsed_ua": {"bot": True}}) == []
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from segsrv.transform.applying import BadResult, MadeLimits, apply_to_line
from segsrv.transform.context import EventContext
from segsrv.transform.identity import id_of, type_of

__all__ = ["BadResult", "EventContext", "apply"]

EVENT_BYTES_MAX = 1_000_000


def apply(
    function: Callable[[dict[str, Any], EventContext], Any],
    event: dict[str, Any],
    **context: Any,
) -> list[dict[str, Any]]:
    """Return the events that *function* makes of *event*, as they would be stored.

    *context* has fields of EventContext; the id and the type are those in the event unless they are
    given, and the format is `flat`. The event itself stays as it is. Ids are given out as in the
    server: `id`, `id-1`, `id-2` for several.

    Raises:
        BadResult: What it returned can't be stored; a server would set the event aside.
        BaseException: Whatever *function* raises; a server would set the event aside for it.

    """
    output = context.get("format", "flat")
    known = {"event_id": id_of(event, output), "type": type_of(event, output)} | context
    limits = MadeLimits(event_bytes_max=EVENT_BYTES_MAX, total_bytes_max=8 * EVENT_BYTES_MAX)
    made = apply_to_line([function], orjson.dumps(event), EventContext(**known), limits)
    return [orjson.loads(each.line) for each in made]
