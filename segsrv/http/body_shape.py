"""What a body that is no batch must have, so that no other format is stored as an empty event."""

from __future__ import annotations

import json
from itertools import islice

from segsrv.errors import BadRequest
from segsrv.events import Payload
from segsrv.events.shapes import Event
from segsrv.http.paths import Target

NAMES_SHOWN = 5
NAME_CHARS_SHOWN = 40


def check_shape(payload: Payload, target: Target) -> None:
    """Refuse a single object that says nothing of an event.

    Raises:
        BadRequest: It is empty, or was posted to a path for batches and has no type.

    """
    if payload.is_batch:
        return
    item = payload.items[0]
    if target.is_batch and "type" not in item:
        text = 'the body has neither "batch" nor "type"'
        # The names are cut, and half of a secret would not be found among them.
        raise BadRequest(f"{text}, {_names(item)}", code="missing_batch", log_text=text)
    if not item:
        raise BadRequest("the body is an empty object, there is no event in it", code="empty_event")


def _names(item: Event) -> str:
    if not item:
        return "it is an empty object"
    names = [json.dumps(name[:NAME_CHARS_SHOWN]) for name in islice(item, NAMES_SHOWN)]
    more = f" and {len(item) - len(names)} more" if len(item) > len(names) else ""
    return f"it has {', '.join(names)}{more}"
