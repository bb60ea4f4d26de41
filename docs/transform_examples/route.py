"""One function for all sinks that decides by a property which of them gets an event.

Sinks called `eu` and `us` get the events of their region, and every other sink gets all.
"""

REGIONS = ("eu", "us")


def route(event, context):
    if context.sink not in REGIONS:
        return event
    return event if event.get("region", "us") == context.sink else None
