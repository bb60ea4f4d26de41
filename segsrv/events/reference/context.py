"""What both reference mappers do with an event's context."""

from __future__ import annotations

from segsrv.events.shapes import MISSING, Event, as_object
from segsrv.events.steps import said_user_agent


def map_context(event: Event, target: Event, context: Event, unmapped: Event) -> Event | None:
    """Move what the rules name out of *context* to *target*, where the tracker's fields are kept.

    Returns the context's traits if they are an object. The caller lays what stays in *context* over
    the root. `location` and `user_agent` are copied and not moved: the table lays the whole context
    over the root, and only a rule of its own takes a field off it again.
    """
    page = context.pop("page", MISSING)
    if page is not MISSING:
        target["doc"] = page
        if page.__class__ is dict:
            if "title" in page:
                target["page_title"] = page.pop("title")
            if "referrer" in page:
                target["referer"] = page["referrer"]

    user_agent = context.pop("userAgent", MISSING)
    if "user_agent" in context:
        user_agent = context["user_agent"]
    if user_agent is not MISSING:
        target["user_agent"] = user_agent

    campaign = context.pop("campaign", MISSING)
    if campaign is not MISSING:
        target["utm"] = campaign
        if campaign.__class__ is dict and "name" in campaign:
            campaign["campaign"] = campaign["name"]

    if "location" in context:
        target["location"] = context["location"]

    referrer = context.get("referrer")
    if referrer.__class__ is dict and "url" in referrer:
        target["referer"] = referrer.pop("url")

    operating_system, device = context.pop("os", None), context.pop("device", None)
    if operating_system is not None or device is not None:
        parsed = said_user_agent(operating_system, device)
        if parsed:
            target["parsed_ua"] = parsed

    locale = context.pop("locale", MISSING)
    if locale is not MISSING:
        target["user_language"] = locale
    ip = context.pop("ip", MISSING)
    if ip is not MISSING:
        event["source_ip"] = ip

    return as_object(context.pop("traits", None), "traits", unmapped)
