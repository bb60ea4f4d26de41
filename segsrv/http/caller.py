"""Who sends, as a request's head says it: key, page, address, and what is asked of the events."""

from __future__ import annotations

import logging
from functools import lru_cache

from multidict import istr

from segsrv.errors import BadRequest, Unauthorized
from segsrv.events import FLAT, FORMATS, TRACKER, Format, Sender
from segsrv.events.counters import OK, AnswersKey, PathKind
from segsrv.events.privacy import POLICIES, Policy
from segsrv.http import answers
from segsrv.http.answers import Answer
from segsrv.http.auth import Keyring
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import Cors, origin_of
from segsrv.http.paths import Target
from segsrv.http.request import Request
from segsrv.http.tally import Seldom, Tally
from segsrv.settings import Key, Settings

logger = logging.getLogger(__name__)

USER_AGENT = istr("User-Agent")
POLICY_CHARS_MAX = 20
BY_NAME = {output.name: output for output in FORMATS}
OKS_CACHED_MAX = 1_024
"""By origin, of which any page can name another one."""


class Terms:
    """What comes of a caller and the key that its events are sent with.

    `sender` is who sends, for the events, `output` the format that they are stored in, and
    `answers_key` what those that are stored count as.
    """

    __slots__ = ("answers_key", "key_id", "output", "sender")

    def __init__(
        self, sender: Sender, output: Format, answers_key: AnswersKey, key_id: str
    ) -> None:
        self.sender = sender
        self.output = output
        self.answers_key = answers_key
        self.key_id = key_id


class Caller:
    """All that a head says; it may be kept for requests with the same head from the same peer.

    `key` is the head's own key, None where it has none and the body must name it. `fault` is why
    the head alone is refused. `ok` is the answer to events that are stored. `own_terms` are
    those of the head's own key, when they have been asked for.
    """

    __slots__ = (
        "_terms",
        "address",
        "cookie_policy",
        "fault",
        "ip_policy",
        "key",
        "ok",
        "origin",
        "own_terms",
        "target",
        "user_agent",
    )

    def __init__(
        self, target: Target, *, address: str, user_agent: str, origin: str | None
    ) -> None:
        self.target = target
        self.address = address
        self.user_agent = user_agent
        self.origin = origin
        self.key: Key | None = None
        self.fault: Unauthorized | None = None
        self.cookie_policy: Policy = "keep"
        self.ip_policy: Policy = "keep"
        self.ok: Answer
        # By the key's id: there are no more than configured keys.
        self._terms: dict[str, Terms] | None = None
        self.own_terms: Terms | None = None

    def terms_of(self, key: Key) -> Terms | None:
        """Return what comes of this caller and *key*, if it was asked for before."""
        if key is self.key:
            return self.own_terms
        return None if self._terms is None else self._terms.get(key.id)

    def remember(self, key: Key, terms: Terms) -> Terms:
        if key is self.key:
            self.own_terms = terms
        else:
            self._terms = {**(self._terms or {}), key.id: terms}
        return terms

    @property
    def kind(self) -> PathKind:
        return self.target.kind

    @property
    def key_id(self) -> str:
        return "" if self.key is None else self.key.id


class Callers:
    """Makes callers of heads; holds what is configured of them."""

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        cors: Cors,
        client_address: ClientAddress,
        tally: Tally,
    ) -> None:
        self.client_address = client_address
        self._settings = settings
        self._keyring = keyring
        self._cors = cors
        self._tally = tally
        self._seldom = Seldom()
        self._ok = lru_cache(OKS_CACHED_MAX)(lambda origin: answers.ok(cors.headers(origin)))

    def forget(self) -> None:
        """Forget what follows from keys: there are others now."""
        self._ok.cache_clear()

    def of(self, request: Request, target: Target) -> Caller:
        """Return what the head of *request* says."""
        settings = self._settings
        caller = Caller(
            target,
            address=self.client_address.of(request),
            user_agent=request.headers.get(USER_AGENT, ""),
            origin=origin_of(request.headers),
        )
        caller.ok = self._ok(caller.origin)
        caller.cookie_policy, caller.ip_policy = settings.cookie_policy, settings.ip_policy
        if request.raw_query:
            query = request.query
            caller.cookie_policy = self._policy(
                "cookie_policy", query.get("cookie_policy"), settings.cookie_policy
            )
            caller.ip_policy = self._policy("ip_policy", query.get("ip_policy"), settings.ip_policy)
        try:
            caller.key = self._keyring.from_request(request)
            if caller.key is not None:
                self._cors.check(caller.key, caller.origin)
        except Unauthorized as error:
            # Without its frames, which hold the request.
            caller.fault = error.with_traceback(None)
        return caller

    def terms(self, caller: Caller, key: Key) -> Terms:
        """Return what comes of *caller* and *key*; nobody changes it.

        Raises:
            BadRequest: The path names a format that the key does not allow.

        """
        return caller.terms_of(key) or caller.remember(key, self._terms(caller, key))

    def at(self, caller: Caller, peer: str, forwarded: str) -> Caller:
        """Return what the head of *caller* says when it comes from elsewhere.

        *forwarded* is what the header that names the client's address holds.
        """
        other = Caller(
            caller.target,
            address=self.client_address.said(peer, forwarded),
            user_agent=caller.user_agent,
            origin=caller.origin,
        )
        other.key, other.fault, other.ok = caller.key, caller.fault, caller.ok
        other.cookie_policy, other.ip_policy = caller.cookie_policy, caller.ip_policy
        return other

    def _terms(self, caller: Caller, key: Key) -> Terms:
        target, stored = caller.target, self._settings.stored_api_key
        sender = Sender(
            api_key={"secret": key.secret, "id": key.id, "none": None}[stored],
            address=caller.address,
            user_agent=caller.user_agent,
            cookie_policy=caller.cookie_policy,
            ip_policy=caller.ip_policy,
            event_type=target.event_type,
            is_client=target.is_client,
            gives_user_agent=target.gives_user_agent,
            correct_timestamps=self._settings.correct_timestamps,
            types=frozenset(key.types),
        )
        return Terms(sender, output_of(target, key), (OK, 200, target.kind, key.id), key.id)

    def _policy(self, name: str, value: str | None, default: Policy) -> Policy:
        if value is None:
            return default
        for policy in POLICIES:
            if value == policy:
                return policy
        if self._seldom.due(name):
            shown = self._tally.without_secrets(value)[:POLICY_CHARS_MAX]
            logger.warning("request: %s=%r is not one of %s", name, shown, ", ".join(POLICIES))
        return default


def output_of(target: Target, key: Key) -> Format:
    """Return the format of the events that come to *target* with *key*."""
    output = target.output
    if not key.formats or output is TRACKER:
        return output
    if output is FLAT:
        return BY_NAME[key.formats[0]]
    if output.name not in key.formats:
        raise BadRequest(
            f"the path asks for the format {output.name}, and the key allows "
            f"{' and '.join(key.formats)}",
            code="format_not_allowed",
        )
    return output
