"""What a batch says for all of its events."""

from __future__ import annotations

from segsrv.events.payload import Payload
from segsrv.events.shapes import Event, Lookup, as_object

_CHANGED_PARTS = ("page", "campaign", "referrer", "traits", "user", "eventn_ctx")

MAPPED_NAMES = frozenset(
    "page userAgent user_agent campaign location referrer os device locale ip traits user"
    " eventn_ctx".split()
)
"""Those names in a context that the mapping moves, reads or changes what is in them."""


class Batch:
    """What all events of a batch share, and what is remembered for its length.

    The events hold the same objects. What mapping and finishing write into or take from is copied
    for each: the context itself, and some of what can be in it.
    `plain_context` is the batch's context if no rule names anything in it, so that it can be laid
    over an event as it is; `gives_parts`, whether anything else must be given to each.
    """

    __slots__ = (
        "_context",
        "_copied",
        "_integrations",
        "gives_parts",
        "parse_long",
        "plain_context",
        "sent_at",
    )

    def __init__(self, payload: Payload) -> None:
        context = self._context = payload.context
        self._integrations = payload.integrations
        self.sent_at = payload.sent_at
        self.parse_long: Lookup | None = None
        self._copied = [name for name in _CHANGED_PARTS if _holds_object(context, name)]
        is_plain = context is not None and MAPPED_NAMES.isdisjoint(context)
        self.plain_context = context if is_plain else None
        self.gives_parts = self._integrations is not None or (context is not None and not is_plain)

    def give(self, item: Event) -> None:
        """Give *item* what it does not say itself."""
        shared = self._context
        if shared is not None:
            own = as_object(item.get("context"), "context", item)
            context = item["context"] = shared.copy() if own is None else shared | own
            for name in self._copied:
                if context[name] is shared[name]:
                    context[name] = _copied(shared[name])
        if self._integrations is not None:
            own = item.get("integrations")
            if own.__class__ is dict or not own:
                item["integrations"] = self._integrations | (own or {})
        if self.sent_at is not None and item.get("sentAt") is None:
            item["sentAt"] = self.sent_at


def _holds_object(context: Event | None, name: str) -> bool:
    return context is not None and context.get(name).__class__ is dict


def _copied(part: Event) -> Event:
    """Copy *part* and the user in it, which an `eventn_ctx` has."""
    part = part.copy()
    if part.get("user").__class__ is dict:
        part["user"] = part["user"].copy()
    return part
