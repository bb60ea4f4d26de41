"""A write key, and what one may look like so that every client can send it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from segsrv.errors import SettingsError
from segsrv.settings.fields import check_function, option, required, settle, table
from segsrv.settings.sink import EventType

FormatName = Literal["flat", "compat", "segment"]

ID_CHARS_MAX = 128
SECRET_CHARS_MAX = 512
SECRETS_MAX = 16
"""Each takes a look-up's place; more than two or three are old ones that nobody took away."""
RATE_MIN = 0.001
"""Events a second: one in a quarter of an hour."""
MADE_KEY_ID = "default"
"""The id of the key that is made where none is configured."""
_ORIGIN = re.compile(r"\*|null|[a-z*][a-z0-9+.*-]*://[^/\s]+", re.IGNORECASE)
_EXPECTED = "neither empty nor with spaces, colons or control characters"


@table
@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A write key: a public id for logs and banners, its secrets, and what may be done with it.

    Clients send a secret, or `id:secret`, most often as the user of Basic authentication, which
    ends at a colon. Give `secret`, or `secrets` while one replaces another; once built a key has
    both: `secrets` is never empty, and `secret` is its first, which is shown and stored.

    `origins` is empty (any origin) or a list such as `https://*.example.com`. The first of
    `formats` is that of paths which name none. Of `types`, `formats` and `sinks` an empty one
    means all. `rate_events_per_s` is 0 for no limit; `burst_events` is 0 for what comes in a
    second at that rate.

    Raises:
        SettingsError: A part is wrong; the message never holds a secret.

    """

    id: str = required("public name, in logs and banners")
    secret: str = option("", "what clients send", is_secret=True)
    secrets: tuple[str, ...] = option(
        (), "several that clients may send, while one replaces another", is_secret=True
    )
    origins: tuple[str, ...] = option((), "where browsers may send from; empty means anywhere")
    formats: tuple[FormatName, ...] = option(
        (), "formats that its events may be stored in, its own first; empty means all, and flat"
    )
    types: tuple[EventType, ...] = option((), "types of events that it may send; empty means all")
    rate_events_per_s: float = option(
        0.0, "events a second, of all workers together; 0 is no limit", low=0, high=10_000_000
    )
    burst_events: int = option(
        0, "events at once, above the rate; 0: those of a second", low=0, high=100_000_000
    )
    sinks: tuple[str, ...] = option((), "names of the sinks that its events go to; empty means all")
    transform: str = option(
        "", "package.module:function that its events go through, before the server's"
    )
    disabled: bool = option(False, "refuse its events with 401")

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
        self._settle_secrets()
        check_function(self.transform, f"keys.{self.id}.transform")
        if 0 < self.rate_events_per_s < RATE_MIN:
            raise SettingsError(
                f"keys.{self.id}.rate_events_per_s={self.rate_events_per_s}: expected 0 for no "
                f"limit, or {RATE_MIN} and more"
            )
        if self.burst_events and not self.rate_events_per_s:
            raise SettingsError(f"keys.{self.id}.burst_events: has no rate_events_per_s beside it")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"keys.{self.id}.origins={origin}: expected what browsers send, "
                    "SCHEME://HOST or SCHEME://HOST:PORT, with * for any text"
                )

    def _settle_secrets(self) -> None:
        """Bring `secret` and `secrets` to say the same; a copy of a key has both already."""
        where = f"keys.{self.id}.secrets" if self.secrets else f"keys.{self.id}.secret"
        secrets = self.secrets or (self.secret,)
        if secrets == ("",):
            raise SettingsError(f"{where}: is missing or empty; expected secret or secrets")
        for secret in secrets:
            if not _is_right(secret, SECRET_CHARS_MAX):
                raise SettingsError(
                    f"{where}: expected at most {SECRET_CHARS_MAX} characters, {_EXPECTED}"
                )
        if len(set(secrets)) < len(secrets) or len(secrets) > SECRETS_MAX:
            raise SettingsError(f"{where}: expected at most {SECRETS_MAX}, each another one")
        if self.secret not in ("", secrets[0]):
            raise SettingsError(f"keys.{self.id}: give secret or secrets, one of the two")
        # As `settle` does: the instance is not yet anybody's.
        object.__setattr__(self, "secrets", secrets)
        object.__setattr__(self, "secret", secrets[0])


def derived_key_id(secret: str) -> str:
    return "key-" + hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:8]


def _is_right(part: Any, chars_max: int) -> bool:
    if not isinstance(part, str) or not 0 < len(part) <= chars_max:
        return False
    return part.isprintable() and " " not in part and ":" not in part
