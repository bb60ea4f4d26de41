"""A write key, and what one may look like so that every client can send it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from segsrv.errors import SettingsError
from segsrv.settings.fields import check_function, option, required, settle, table

FormatName = Literal["flat", "compat", "segment"]

ID_CHARS_MAX = 128
SECRET_CHARS_MAX = 512
MADE_KEY_ID = "default"
"""The id of the key that is made where none is configured."""
_ORIGIN = re.compile(r"\*|null|[a-z*][a-z0-9+.*-]*://[^/\s]+", re.IGNORECASE)
_EXPECTED = "neither empty nor with spaces, colons or control characters"


@table
@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A write key: a public id for logs and banners, a secret, and where browsers may use it from.

    Clients send the secret, or `id:secret`, most often as the user of Basic authentication, which
    ends at a colon. `origins` is empty (any origin) or a list such as `https://*.example.com`. The
    first of `formats` is that of paths which name none.

    Raises:
        SettingsError: A part is wrong; the message never holds the secret.

    """

    id: str = required("public name, in logs and banners")
    secret: str = required("what clients send", is_secret=True)
    origins: tuple[str, ...] = option((), "where browsers may send from; empty means anywhere")
    formats: tuple[FormatName, ...] = option(
        (), "formats that its events may be stored in, its own first; empty means all, and flat"
    )
    transform: str = option(
        "", "package.module:function that its events go through, before the server's"
    )

    @classmethod
    def parse(cls, text: str, where: str = "write_key") -> Key:
        """Read `secret` or `id:secret`; without an id, one is derived from the secret's hash.

        *where* names the text in the error, which holds no part of it: either may be the secret.
        """
        key_id, colon, secret = text.partition(":")
        if not colon:
            key_id, secret = derived_key_id(text), text
        if not (_is_right(key_id, ID_CHARS_MAX) and _is_right(secret, SECRET_CHARS_MAX)):
            raise SettingsError(
                f"{where}: expected SECRET or ID:SECRET, the parts {_EXPECTED}, "
                f"of at most {SECRET_CHARS_MAX} and {ID_CHARS_MAX} characters"
            )
        return cls(id=key_id, secret=secret)

    def __post_init__(self) -> None:
        has_name = _is_right(self.id, ID_CHARS_MAX)
        settle(self, f"keys.{self.id}." if has_name else "keys.")
        if not has_name:
            raise SettingsError(
                f"keys.id={self.id[:ID_CHARS_MAX]}: expected at most {ID_CHARS_MAX} characters, "
                f"{_EXPECTED}"
            )
        if not _is_right(self.secret, SECRET_CHARS_MAX):
            raise SettingsError(
                f"keys.{self.id}.secret: expected at most {SECRET_CHARS_MAX} characters, "
                f"{_EXPECTED}"
            )
        check_function(self.transform, f"keys.{self.id}.transform")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"keys.{self.id}.origins={origin}: expected what browsers send, "
                    "SCHEME://HOST or SCHEME://HOST:PORT, with * for any text"
                )


def derived_key_id(secret: str) -> str:
    return "key-" + hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:8]


def _is_right(part: Any, chars_max: int) -> bool:
    if not isinstance(part, str) or not 0 < len(part) <= chars_max:
        return False
    return part.isprintable() and " " not in part and ":" not in part
