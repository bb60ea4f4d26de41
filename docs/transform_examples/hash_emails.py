"""E-mail addresses become tokens: the same address the same one, and nobody reads it."""

import hashlib
import hmac
import os
import re

SALT = os.environ.get("EMAIL_SALT", "change me").encode()
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")


def hash_emails(event, context):
    return hashed(event)


def hashed(value):
    if isinstance(value, dict):
        return {name: hashed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [hashed(inner) for inner in value]
    if isinstance(value, str) and "@" in value:
        return EMAIL.sub(token, value)
    return value


def token(match):
    address = match.group().lower().encode()
    return "email:" + hmac.new(SALT, address, hashlib.sha256).hexdigest()[:16]
