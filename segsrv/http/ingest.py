"""Events in, an answer out: the same for every server that reads requests, and without a socket.

`caller` says what a head means, `take` does all the rest: it finds the key, maps, has the lines
committed, counts, and calls back with the answer. Nothing here waits; what takes long is done in
turns.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from functools import partial
from time import monotonic

from segsrv.errors import (
    BadRequest,
    Overloaded,
    RateLimited,
    SegsrvError,
    ShuttingDown,
    Unavailable,
)
from segsrv.events import Outcome, Payload, Pipeline, parse, parsing
from segsrv.events.counters import OK
from segsrv.events.scan import check_values, few_values_bytes, has_few_values
from segsrv.http import answers
from segsrv.http.answers import DELETE_COOKIE_BODY, Answer
from segsrv.http.auth import Keyring
from segsrv.http.body_shape import check_shape
from segsrv.http.caller import Caller, Callers, Terms
from segsrv.http.cors import Cors
from segsrv.http.memory import check_memory, out_of_memory
from segsrv.http.paths import Target
from segsrv.http.receiving import Receiving
from segsrv.http.refusals import EXCERPT_BYTES_MAX
from segsrv.http.request import Request
from segsrv.http.tally import Tally
from segsrv.http.turns import Turns
from segsrv.journal import facts
from segsrv.journal.group_commit import GroupCommit
from segsrv.rates import Rates
from segsrv.settings import MIB, Key, Settings

logger = logging.getLogger(__name__)

SMALL_BYTES_MAX = 16 << 10
SMALL_OBJECTS_MAX = 32
"""A body of no more bytes and opening braces is worked on at once, in about a millisecond."""
ROOM_BYTES_MAX = MIB
"""No journal and no queue is smaller. A body that never fits is refused as such, for good."""

Give = Callable[[Answer], None]


class Ingest:
    """Takes events in. `commit` is set while the journal is open."""

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        cors: Cors,
        pipeline: Pipeline,
        callers: Callers,
        tally: Tally,
        rates: Rates | None = None,
    ) -> None:
        """*rates* are those of all workers; without any they are counted for this one alone."""
        self.commit: GroupCommit | None = None
        self.receiving = Receiving(
            body_bytes_max=settings.body_bytes_max,
            reading_bytes_max=settings.reading_bytes_max,
            timeout_s=settings.body_timeout_s,
        )
        self.on_new_keys: Callable[[], None] = lambda: None
        self.caller: Callable[[Request, Target], Caller] = callers.of
        self.caller_at: Callable[[Caller, str, str], Caller] = callers.at
        self._settings = settings
        self._keyring = keyring
        self._cors = cors
        self._pipeline = pipeline
        self._callers = callers
        self._tally = tally
        self._rates = rates or Rates(is_shared=False)
        self.counters = tally.counters
        self._turns = Turns()
        self._values_max = settings.body_values_max
        # Of so few bytes that is known without a look.
        self._few_values_bytes = few_values_bytes(settings.body_values_max)
        self._batch_events_max = settings.batch_events_max
        self._batch_shared_bytes_max = settings.batch_shared_bytes_max

    def use_keys(self, keys: Sequence[Key]) -> None:
        """Go by *keys* for all requests that begin from now on; the others end as they began."""
        self._keyring.use(keys)
        self._cors.use(keys)
        self._tally.use(keys)
        self._callers.forget()
        self.on_new_keys()

    def take(self, caller: Caller, body: bytes, give: Give) -> None:
        """Take the events of *body*; *give* is called once, on the loop, now or later.

        It gets the answer, which is counted, whatever happens; it must not raise.
        """
        if caller.fault is not None:
            give(self._failed(caller, caller.key_id, caller.fault, body))
            return
        if (fault := self.debt(caller)) is not None:
            give(self._failed(caller, caller.key_id, fault, body))
            return
        taking = _Taking(self, caller, give)
        if len(body) <= SMALL_BYTES_MAX and _has_few_objects(body):
            try:
                self._take_now(taking, body)
            except Exception as error:  # noqa: BLE001 - what it is, is told where it is answered.
                self.refuse(taking, error, body)
        else:
            taking.held_bytes = len(body)
            try:
                # Asked of whole bodies too: those whose clients have gone wait no less.
                self.receiving.add(len(body))
            except Overloaded as error:
                self.refuse(taking, error)
                return
            refuse = partial(self.refuse, taking, body=body[:EXCERPT_BYTES_MAX])
            self._turns.add(caller.address, self._steps(taking, body), refuse)

    def debt(self, caller: Caller) -> RateLimited | None:
        """Return why *caller* should not even send its body now, for the rate of its key."""
        if caller.key is not None and caller.key.rate_events_per_s:
            try:
                self._rates.check(caller.key)
            except RateLimited as fault:
                return fault
        return None

    def refused(self, caller: Caller, fault: Exception) -> Answer:
        """Return the answer to a request whose head or body is refused, and count it."""
        return self._failed(caller, caller.key_id, fault)

    def swallowed(self, caller: Caller) -> Answer:
        """Return the answer to what SDKs report of themselves, and count it."""
        self.counters.answers[OK, 200, caller.kind, ""] += 1
        return caller.ok

    def _take_now(self, taking: _Taking, body: bytes) -> None:
        commit = self.commit
        if commit is None or not body:
            commit = self._open_commit(body)
        if taking.key is None:
            for _ in self._keyring.search(body, self._check_rate):
                pass
        # Asked before the work is done: what is stored has about the size of what was sent.
        commit.check_room(len(body))
        if len(body) > self._few_values_bytes and not has_few_values(body, self._values_max):
            for _ in check_values(body, self._values_max):
                pass
        target = taking.caller.target
        payload = parse(
            body,
            batch_events_max=self._batch_events_max,
            batch_shared_bytes_max=self._batch_shared_bytes_max,
            takes_array=target.takes_array,
        )
        self._find_terms(taking, payload)
        taking.outcome = self._pipeline.run(payload, taking.terms.sender, taking.terms.output)
        self._commit(commit, taking)

    def _steps(self, taking: _Taking, body: bytes) -> Generator[None, None, None]:
        """Do as `_take_now` does, in steps of which only one is long: the parser's."""
        commit = self._open_commit(body)
        if taking.key is None:
            yield from self._keyring.search(body, self._check_rate)
        else:
            # Its turn may come late.
            self._check_rate(taking.key)
        commit.check_room(min(len(body), ROOM_BYTES_MAX))
        yield from check_values(body, self._values_max)
        if len(body) > SMALL_BYTES_MAX:
            check_memory(body)
        target = taking.caller.target
        payload = yield from parsing(
            body,
            batch_events_max=self._batch_events_max,
            batch_shared_bytes_max=self._batch_shared_bytes_max,
            takes_array=target.takes_array,
        )
        yield
        self._find_terms(taking, payload)
        taking.outcome = outcome = Outcome()
        yield from self._pipeline.steps(payload, taking.terms.sender, taking.terms.output, outcome)
        self._commit(commit, taking)

    def _open_commit(self, body: bytes) -> GroupCommit:
        if self.commit is None:
            raise ShuttingDown("the server is not ready")
        if not body:
            raise BadRequest("the body is empty", code="invalid_json")
        return self.commit

    def _find_terms(self, taking: _Taking, payload: Payload) -> None:
        """Find the key of a body that is parsed, and refuse what is no event."""
        caller, key = taking.caller, taking.key
        if key is None:
            key = taking.key = self._keyring.from_body(payload.write_key)
            self._cors.check(key, caller.origin)
        check_shape(payload, caller.target)
        taking.terms = caller.own_terms or self._callers.terms(caller, key)
        if key.rate_events_per_s:
            # Only now is known how many they are; others may have been faster meanwhile.
            self._rates.charge(key, len(payload.items))

    def _check_rate(self, key: Key) -> None:
        """Refuse a key in debt before its body is worked on, which may take long and be no use."""
        if key.rate_events_per_s:
            self._rates.check(key)

    def _commit(self, commit: GroupCommit, taking: _Taking) -> None:
        if taking.held_bytes:
            self._let_go(taking)
        outcome = taking.outcome
        lines = outcome.lines
        run = None
        if lines:
            run = facts.encode_request(
                taking.terms.key_id,
                taking.terms.output.name,
                outcome.received_ms,
                outcome.kinds,
                lines,
                outcome.ids,
            )
        elif not outcome.dead_letters:
            taking.committed(None)
            return
        commit.submit(lines, outcome.dead_letters, run, taking.committed)

    def refuse(self, taking: _Taking, fault: Exception, body: bytes = b"") -> None:
        self._let_go(taking)
        self.counters.request_seconds.observe(monotonic() - taking.began_s)
        taking.give(self._failed(taking.caller, taking.key_id, fault, body))

    def _let_go(self, taking: _Taking) -> None:
        """Take the body off the count of those that wait."""
        self.receiving.give_back(taking.held_bytes)
        taking.held_bytes = 0

    def _failed(self, caller: Caller, key_id: str, fault: Exception, body: bytes = b"") -> Answer:
        if isinstance(fault, MemoryError):
            # Not that error: it holds the frames, and with them what there was no memory for.
            fault = out_of_memory()
        if isinstance(fault, SegsrvError):
            self._tally.refused(
                fault,
                caller.kind,
                key_id,
                caller.address,
                keeps_address=caller.ip_policy == "keep",
                body=body,
            )
            retry_after_s = self._settings.retry_after_s
            return answers.refusal(fault, caller.ok.headers, retry_after_s=retry_after_s)
        logger.error("request: failed by a fault of this server", exc_info=fault)
        told = SegsrvError("a fault of this server; it is in its log")
        self.counters.answers[told.code, told.status, caller.kind, key_id] += 1
        return answers.refusal(told, caller.ok.headers)


class _Taking:
    """One body on its way to its answer; `held_bytes` of it wait, or waited, for a turn.

    It was whole at `began_s` of the monotonic clock. `terms` are there when its key is known, and
    `outcome` when it has been worked on.
    """

    __slots__ = ("_ingest", "began_s", "caller", "give", "held_bytes", "key", "outcome", "terms")

    def __init__(self, ingest: Ingest, caller: Caller, give: Give) -> None:
        self._ingest = ingest
        self.began_s = monotonic()
        self.caller = caller
        self.give = give
        self.key = caller.key
        self.held_bytes = 0
        self.terms: Terms
        self.outcome: Outcome

    def committed(self, fault: Unavailable | None) -> None:
        """Answer when the events are safe, or for *fault* are not."""
        if fault is not None:
            self._ingest.refuse(self, fault)
            return
        outcome, counters = self.outcome, self._ingest.counters
        terms, answer = self.terms, self.caller.ok
        counters.answers[terms.answers_key] += 1
        counters.count(terms.output, terms.key_id, outcome)
        if outcome.delete_cookie:
            answer = Answer(200, DELETE_COOKIE_BODY, answer.headers)
        # As Histogram.observe does, without a call.
        seconds, took_s = counters.request_seconds, monotonic() - self.began_s
        seconds.counts[bisect_left(seconds.bounds, took_s)] += 1
        seconds.sum_s += took_s
        self.give(answer)

    @property
    def key_id(self) -> str:
        return "" if self.key is None else self.key.id


def _has_few_objects(body: bytes) -> bool:
    # This finds one after the other, and no more of them; to count all takes three times as long.
    few = body.replace(b"{", b"", SMALL_OBJECTS_MAX + 1)
    return len(body) - len(few) <= SMALL_OBJECTS_MAX
