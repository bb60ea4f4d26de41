"""Body bytes to raw items, with what the batch says for all of them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import orjson

from segsrv.errors import BadRequest
from segsrv.events.shapes import Event
from segsrv.events.tolerant import mended

TOLERANT_BYTES_MAX = 1 << 20
"""More than any SDK's batch. To mend a body takes several times as long as to read it."""

OUT_OF_MEMORY = "Not enough memory"
"""How orjson's text begins where it calls a lack of memory a fault of the JSON."""


@dataclass(slots=True)
class Payload:
    """The items of a body, not yet looked at one by one, and the fields that all of them share.

    All events of a batch hold the same `context` and `integrations`, so nobody may change these or
    what is in them. `own_key` is the write key that a batch names beside its items.
    """

    items: list[Any]
    is_batch: bool
    own_key: str | None = None
    context: Event | None = None
    integrations: Event | None = None
    sent_at: Any = None

    @property
    def write_key(self) -> str | None:
        """The key that the body names, to be asked for while the items are there.

        Of a batch it is the first of its items that is asked when the batch has none: the browser
        SDK repeats it in each.
        """
        if self.own_key is not None:
            return self.own_key
        return next((key for item in self.items if (key := write_key_of(item))), None)


def parse(
    body: bytes, *, batch_events_max: int, batch_shared_bytes_max: int, takes_array: bool = False
) -> Payload:
    """Do what `parsing` does, in one go."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        data = _in_one_go(_parse_tolerantly(body, error))
    # Where an array is how events are sent together, "batch" is a field like any other.
    if data.__class__ is dict and (takes_array or "batch" not in data):
        return Payload([data], False)
    return _batch(data, batch_events_max, batch_shared_bytes_max, takes_array=takes_array)


def _in_one_go(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def parsing(
    body: bytes, *, batch_events_max: int, batch_shared_bytes_max: int, takes_array: bool = False
) -> Generator[None, None, Payload]:
    """Read one event or `{"batch": [...]}`; with *takes_array*, one event or an array of events.

    *batch_shared_bytes_max* bounds what the events of a batch share, times their number: each event
    gets a copy, so a small body could else become gigabytes.

    Raises:
        BadRequest: The body is no JSON object, or its batch is no list, too long or shares too
            much.
        MemoryError: There is not enough memory, which says nothing of the body.

    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        data = yield from _parse_tolerantly(body, error)
    if data.__class__ is dict and (takes_array or "batch" not in data):
        return Payload([data], False)
    return _batch(data, batch_events_max, batch_shared_bytes_max, takes_array=takes_array)


def _batch(data: Any, events_max: int, shared_bytes_max: int, *, takes_array: bool) -> Payload:
    if takes_array and data.__class__ is list:
        _check_length(data, events_max)
        return Payload(data, is_batch=True)
    if data.__class__ is not dict:
        wanted = "object or array" if takes_array else "object"
        raise BadRequest(
            f"the body must be a JSON {wanted}, not {_kind(data)}", code="invalid_body"
        )
    batch = data["batch"]
    if batch.__class__ is not list:
        raise BadRequest(f'"batch" must be an array, not {_kind(batch)}', code="invalid_batch")
    _check_length(batch, events_max)
    return _batch_payload(data, batch, shared_bytes_max)


def _check_length(batch: list[Any], events_max: int) -> None:
    if len(batch) > events_max:
        raise BadRequest(
            f"the batch has {len(batch)} events, the limit is {events_max}", code="batch_too_long"
        )


def _batch_payload(data: Event, batch: list[Any], shared_bytes_max: int) -> Payload:
    context, integrations, sent_at = map(data.get, ("context", "integrations", "sentAt"))
    context = context if context.__class__ is dict else None
    integrations = integrations if integrations.__class__ is dict else None
    shared_bytes = sum(
        _json_bytes(shared, name)
        for shared, name in (
            (context, "context"),
            (integrations, "integrations"),
            (sent_at, "sentAt"),
        )
    )
    if shared_bytes * len(batch) > shared_bytes_max:
        raise BadRequest(
            f"context, integrations and sentAt of the batch take {shared_bytes} bytes, and each of "
            f"its {len(batch)} events gets them; the limit for all is {shared_bytes_max}",
            code="batch_too_large",
        )
    return Payload(
        items=batch,
        is_batch=True,
        own_key=write_key_of(data),
        context=context,
        integrations=integrations,
        sent_at=sent_at,
    )


def _json_bytes(shared: Any, name: str) -> int:
    """Return what is shared takes as JSON, nothing for None."""
    try:
        return 0 if shared is None else len(orjson.dumps(shared))
    except orjson.JSONEncodeError as error:
        raise BadRequest(
            f'"{name}" of the batch is nested too deeply', code="nested_too_deeply"
        ) from error


def write_key_of(item: Any) -> str | None:
    """Return the item's own `writeKey` if it is a non-empty text."""
    key = item.get("writeKey") if item.__class__ is dict else None
    return key if isinstance(key, str) and key else None


def _parse_tolerantly(body: bytes, reason: orjson.JSONDecodeError) -> Generator[None, None, Any]:
    """Read what strict parsers refuse but SDKs send.

    Raises:
        BadRequest: The body is not JSON when it is mended either, or too long for that.
        MemoryError: There is not enough memory.

    """
    if reason.msg.startswith(OUT_OF_MEMORY):
        raise MemoryError(reason.msg) from None
    if "depth limit" in reason.msg:
        raise BadRequest("the JSON is nested too deeply", code="invalid_json") from reason
    text = f"not valid JSON: {reason.msg}: line {reason.lineno} column {reason.colno}"
    if len(body) > TOLERANT_BYTES_MAX:
        text += f" (NaN and lone surrogates are read in bodies of up to {TOLERANT_BYTES_MAX} bytes)"
        raise BadRequest(text, code="invalid_json") from reason
    yield
    body = yield from mended(body)
    yield
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith(OUT_OF_MEMORY):
            raise MemoryError(error.msg) from None
        raise BadRequest(text, code="invalid_json") from error


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(value.__class__, "a number")
