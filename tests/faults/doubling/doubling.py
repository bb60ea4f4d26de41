"""Makes two events of each, and says something else at each call."""

import secrets


def double(event, context):  # noqa: ARG001
    call = secrets.token_hex(8)
    return [{**event, "call": call}, {**event, "call": call, "is_second": True}]
