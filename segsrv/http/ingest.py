"""The ingest handlers: request in, events committed, answer out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web
from multidict import istr

from segsrv.errors import BadRequest, SegsrvError, ShuttingDown
from segsrv.events import Outcome, Pipeline, Sender, parsing
from segsrv.events.counters import OK, PathKind
from segsrv.events.privacy import POLICIES, Policy
from segsrv.events.scan import check_values
from segsrv.http import answers
from segsrv.http.auth import Keyring
from segsrv.http.body import BodyReader
from segsrv.http.body_shape import check_shape
from segsrv.http.client_address import ClientAddress
from segsrv.http.cors import ORIGINS_CACHED_MAX, Cors, origin_of
from segsrv.http.memory import check_memory, out_of_memory
from segsrv.http.paths import Target
from segsrv.http.tally import Handler, Seldom, Tally
from segsrv.http.turns import Turns
from segsrv.journal import facts
from segsrv.journal.group_commit import GroupCommit
from segsrv.settings import MIB, Key, Settings

logger = logging.getLogger(__name__)

USER_AGENT = istr("User-Agent")
SMALL_BYTES_MAX = 16 << 10
SMALL_OBJECTS_MAX = 32
"""A body of no more bytes and opening braces is worked on at once, in about a millisecond."""
ROOM_BYTES_MAX = MIB
"""No journal and no queue is smaller. A body that never fits is refused as such, for good."""
POLICY_CHARS_MAX = 20
Read = Callable[[web.Request], Awaitable[bytes]]


@dataclass(slots=True)
class Caller:
    """Whose key a request turns out to have, for the count of its answer, whatever that will be."""

    key: Key | None = None

    @property
    def key_id(self) -> str:
        return "" if self.key is None else self.key.id


class Ingest:
    """Takes events in; holds what the handlers share. `commit` is set while the journal is open."""

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        cors: Cors,
        pipeline: Pipeline,
        client_address: ClientAddress,
        tally: Tally,
    ) -> None:
        self.commit: GroupCommit | None = None
        self._settings = settings
        self._pipeline = pipeline
        self._counters = tally.counters
        self._tally = tally
        self._cors = cors
        self._keyring = keyring
        self._client_address = client_address
        self._bodies = BodyReader(
            bytes_max=settings.body_bytes_max,
            reading_bytes_max=settings.reading_bytes_max,
            timeout_s=settings.body_timeout_s,
        )
        self._turns = Turns()
        self._rendered_tail = lru_cache(ORIGINS_CACHED_MAX)(
            lambda origin: answers.rendered_tail(cors.headers(origin))
        )
        self._stored_keys = {
            key.id: {"secret": key.secret, "id": key.id, "none": None}[settings.stored_api_key]
            for key in settings.all_keys()
        }
        self._seldom = Seldom()
        self._has_outer_layers: bool | None = None

    def handler(self, target: Target, read: Read | None = None) -> Handler:
        """Return the handler of the paths that say *target*.

        *read* returns what stands for the body where events come in another part of the request.
        """
        kind, read_body = target.kind, read or self._bodies.read

        async def ingest(request: web.Request) -> web.StreamResponse:
            return await self._answer(
                request, kind, lambda caller: self._take(request, target, caller, read_body)
            )

        return ingest

    async def telemetry(self, request: web.Request) -> web.StreamResponse:
        """Swallow what SDKs report of themselves, so that they neither fail nor retry."""

        async def swallow(_caller: Caller) -> bool:
            await self._bodies.read(request)
            return False

        return await self._answer(request, "telemetry", swallow)

    async def _answer(
        self, request: web.Request, kind: PathKind, take: Callable[[Caller], Awaitable[bool]]
    ) -> web.StreamResponse:
        """Turn what *take* returns or raises into an answer that is counted; no other place does.

        *take* says in the caller whose key it found as soon as it has: refusals count for it too.
        """
        origin = origin_of(request)
        caller = Caller()
        try:
            delete_cookie = await _take_or_run_out(take, caller)
        except SegsrvError as error:
            self._tally.refused(error, kind, caller.key_id, request)
            answer = answers.error(
                error, self._cors.headers(origin), retry_after_s=self._settings.retry_after_s
            )
            if request.content.exception() is not None:
                # aiohttp closes a connection whose body is broken; the client should know that.
                answer.force_close()
            return answer
        except ConnectionError:
            # Nobody reads this answer. Raised further, aiohttp would log it as a server's fault.
            return answers.error(BadRequest("the client went away"))
        except asyncio.CancelledError:
            # An outer application gave up on the request.
            raise
        except Exception:
            logger.exception("request: failed by a fault of this server")
            fault = SegsrvError("a fault of this server; it is in its log")
            self._counters.answers[fault.code, fault.status, kind, caller.key_id] += 1
            return answers.error(fault, self._cors.headers(origin))
        self._counters.answers[OK, 200, kind, caller.key_id] += 1
        if delete_cookie:
            return answers.ok(answers.DELETE_COOKIE_BODY, self._cors.headers(origin))
        if self._has_outer_layers is None:
            # Applications are frozen once they serve, so one look is enough.
            self._has_outer_layers = answers.has_outer_layers(request)
        if self._has_outer_layers or not answers.can_be_rendered(request):
            return answers.ok(headers=self._cors.headers(origin))
        return answers.RenderedOk(self._rendered_tail(origin))

    async def _take(
        self, request: web.Request, target: Target, caller: Caller, read_body: Read
    ) -> bool:
        """Commit the request's events; return whether the answer asks to delete the cookie."""
        commit = self.commit
        if commit is None:
            raise ShuttingDown("the server is not ready")
        key = self._keyring.from_request(request)
        if key is not None:
            caller.key = key
            self._cors.check(key, origin_of(request))
        # What was parsed takes many times the memory of its lines, so nothing here may hold it
        # while the commit is waited for.
        outcome = await self._outcome(request, target, caller, commit, read_body)
        if outcome.lines or outcome.dead_letters:
            assert caller.key is not None, "a request without a key has no outcome"
            run = _run(caller.key, target, outcome)
            committed = commit.submit(outcome.lines, outcome.dead_letters, run)
            if committed is not None:
                await committed
        self._counters.count(target.output, outcome)
        return outcome.delete_cookie

    async def _outcome(
        self,
        request: web.Request,
        target: Target,
        caller: Caller,
        commit: GroupCommit,
        read_body: Read,
    ) -> Outcome:
        """Read the body, and do what makes lines of it, in turns unless it is small."""
        body = await read_body(request)
        if not body:
            raise BadRequest("the body is empty", code="invalid_json")
        steps = self._steps(request, target, caller, body, commit)
        if len(body) <= SMALL_BYTES_MAX and body.count(b"{") <= SMALL_OBJECTS_MAX:
            return _at_once(steps)
        with self._bodies.held(body):
            async with self._turns.of(self._client_address.of(request)):
                return await self._turns.work(steps)

    def _steps(
        self,
        request: web.Request,
        target: Target,
        caller: Caller,
        body: bytes,
        commit: GroupCommit,
    ) -> Generator[None, None, Outcome]:
        """Turn *body* into lines, in steps of which only one is long: the parser's."""
        settings, key = self._settings, caller.key
        if key is None:
            yield from self._keyring.search(body)
        # Asked before the work is done: what is stored has about the size of what was sent.
        commit.check_room(min(len(body), ROOM_BYTES_MAX))
        yield from check_values(body, settings.body_values_max)
        if len(body) > SMALL_BYTES_MAX:
            check_memory(body)
        payload = yield from parsing(
            body,
            batch_events_max=settings.batch_events_max,
            batch_shared_bytes_max=settings.batch_shared_bytes_max,
            takes_array=target.takes_array,
        )
        yield
        if key is None:
            key = self._keyring.from_body(payload.write_key)
            caller.key = key
            self._cors.check(key, origin_of(request))
        check_shape(payload, target)
        outcome = Outcome()
        sender = self._sender(request, target, key)
        yield from self._pipeline.steps(payload, sender, target.output, outcome)
        return outcome

    def _sender(self, request: web.Request, target: Target, key: Key) -> Sender:
        settings = self._settings
        sender = Sender(
            api_key=self._stored_keys[key.id],
            address=self._client_address.of(request),
            user_agent=request.headers.get(USER_AGENT, ""),
            cookie_policy=settings.cookie_policy,
            ip_policy=settings.ip_policy,
            event_type=target.event_type,
            is_client=target.is_client,
            gives_user_agent=target.gives_user_agent,
            correct_timestamps=settings.correct_timestamps,
        )
        if request.query_string:
            query = request.query
            sender.cookie_policy = self._policy(
                "cookie_policy", query.get("cookie_policy"), settings.cookie_policy
            )
            sender.ip_policy = self._policy("ip_policy", query.get("ip_policy"), settings.ip_policy)
        return sender

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


def _run(key: Key, target: Target, outcome: Outcome) -> bytes:
    """Return the facts of the request's events, as they travel beside their lines."""
    return facts.encode_request(
        key.id,
        target.output.name,
        outcome.received_ms,
        outcome.kinds,
        outcome.lines,
        outcome.ids,
    )


async def _take_or_run_out(take: Callable[[Caller], Awaitable[bool]], caller: Caller) -> bool:
    """Do *take*; where memory runs out, the client is to send its events again."""
    try:
        return await take(caller)
    except MemoryError:
        # Without the error: it holds the frames, and with them what there was no memory for.
        pass
    raise out_of_memory()


def _at_once(steps: Generator[None, None, Outcome]) -> Outcome:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
