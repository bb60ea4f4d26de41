"""Finds the write key of a request and the configured key that it is."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from multidict import istr

from segsrv.errors import SegsrvError, Unauthorized
from segsrv.events.scan import check_ends, write_key_texts
from segsrv.http.request import Request
from segsrv.settings import Key

AUTHORIZATION = istr("Authorization")
KEY_HEADERS = (istr("X-Write-Key"), istr("X-Auth-Token"), istr("api_key"))
CREDENTIALS_CACHED_MAX = 1_024
CREDENTIAL_CHARS_MAX = 1_024
BASIC_CHARS_CACHED_MAX = 512


class KeyDisabled(Unauthorized):
    """The key is known and was disabled by the operator."""

    code = "key_disabled"

    def __init__(self) -> None:
        super().__init__("the write key is disabled")


class Keyring:
    """The configured keys, found by the hash of what a client sent.

    A look-up by hash takes the same time however much of a guess is right, and as long for a
    thousand keys as for one.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self.use(keys)

    def use(self, keys: Iterable[Key]) -> None:
        """Know *keys* from now on, and no others."""
        keys = tuple(keys)
        self._by_hash: dict[bytes, Key] = {}
        for key in keys:
            # jitsu-js sends `id:secret`, everything else the secret alone.
            for secret in key.secrets:
                for credential in (secret, f"{key.id}:{secret}"):
                    self._by_hash[_hash(credential)] = key
        self._credential_bytes_max = max(
            (len(f"{key.id}:{secret}".encode()) for key in keys for secret in key.secrets),
            default=0,
        )
        # Python finds a cached text by a keyed hash first, so this gives no timing away either.
        self._from_basic = lru_cache(CREDENTIALS_CACHED_MAX)(self._find_basic)
        self._from_text = lru_cache(CREDENTIALS_CACHED_MAX)(self._find_text)

    def from_request(self, request: Request) -> Key | None:
        """Return the key of the request's headers or query; None if neither has a credential.

        Raises:
            Unauthorized: There is a credential, and it is no configured key or a disabled one.

        """
        headers = request.headers
        authorization = headers.get(AUTHORIZATION)
        if authorization is not None and authorization[:6].lower() == "basic ":
            is_short = len(authorization) <= BASIC_CHARS_CACHED_MAX and authorization.isascii()
            find = self._from_basic if is_short else self._find_basic
            return _known(find(authorization))
        # A Bearer token is an OAuth one; the write key is in the body then.
        for header in KEY_HEADERS:
            credential = headers.get(header)
            if credential:
                return _known(self.find(credential))
        if request.raw_query:
            credential = _from_query(request)
            if credential:
                return _known(self.find(credential))
        return None

    def from_body(self, write_key: str | None) -> Key:
        """Return the key that the body names.

        Raises:
            Unauthorized: It names none, or one that is not configured or is disabled.

        """
        if write_key is None:
            raise _no_key()
        return _known(self.find(write_key))

    def search(
        self, body: bytes, check: Callable[[Key], None] = lambda _key: None
    ) -> Iterator[None]:
        """Look for a configured key behind a name `writeKey` of *body*, a text a step.

        This is what a request without a key may cost. Where the key stands is not looked at: that
        is for `from_body`, when the body is parsed. A key that *check* refuses does not open.


        Raises:
            Unauthorized: There is none.
            BadRequest: Nor is the body whole.
            SegsrvError: Those that are there are disabled, or refused by *check*.

        """
        has_text = False
        refusal: SegsrvError | None = None
        for text in write_key_texts(body, key_bytes_max=self._credential_bytes_max):
            if text is not None:
                key = self._find_text(text)
                has_text = True
                if key is not None:
                    try:
                        check(_known(key))
                    except SegsrvError as fault:
                        refusal = fault
                    else:
                        return
            yield
        check_ends(body)
        if refusal is not None:
            raise refusal
        if has_text:
            raise _unknown_key()
        raise _no_key()

    def find(self, credential: str) -> Key | None:
        """Return the key that *credential* is, if any, whether or not it is disabled.

        A long text is refused before the cache, which would keep it: a body may hold megabytes.
        """
        return self._from_text(credential) if len(credential) <= CREDENTIAL_CHARS_MAX else None

    def _find_text(self, credential: str) -> Key | None:
        return self._by_hash.get(_hash(credential))

    def _find_basic(self, authorization: str) -> Key | None:
        """Read `Basic base64(user:password)`; the user is the key, and some send no colon."""
        encoded = authorization[6:].strip()
        try:
            text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        user = text.partition(":")[0]
        return self._find_text(user) or self._find_text(text)


def _known(key: Key | None) -> Key:
    if key is None:
        raise _unknown_key()
    if key.disabled:
        raise KeyDisabled
    return key


def _unknown_key() -> Unauthorized:
    return Unauthorized("the write key is not known here")


def _no_key() -> Unauthorized:
    return Unauthorized(
        "no write key: send it as Basic auth user, X-Write-Key header, "
        "token or writeKey query parameter, or writeKey in the body"
    )


def is_credential(name: str) -> bool:
    """Say whether a query parameter of this name carries the write key."""
    return name == "token" or name.startswith("p_") or name.lower() == "writekey"


def _from_query(request: Request) -> str | None:
    """Return `token`, else `writeKey` in any letter case, else the first `p_…` parameter.

    RudderStack's SDKs and pixels send the second, Jitsu's SDK disguises it as the third.
    """
    query = request.query
    token = query.get("token")
    if token:
        return token
    disguised = None
    for name, value in query.items():
        if value and is_credential(name):
            if not name.startswith("p_"):
                return value
            disguised = disguised or value
    return disguised


def _hash(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
