"""What would become of a request, found out without storing anything; for people who debug."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

import orjson

from segsrv.errors import BadRequest, NotFound, SegsrvError
from segsrv.events import COMPAT, FLAT, SEGMENT, TRACKER, Format, Payload, Pipeline, Sender, parse
from segsrv.events.explaining import Explained, explain
from segsrv.events.privacy import POLICIES, Policy
from segsrv.events.scan import check_values
from segsrv.http.auth import Keyring
from segsrv.http.body_shape import check_shape
from segsrv.http.caller import output_of
from segsrv.http.paths import Target, ingest_paths, normalised
from segsrv.journal.facts import Facts
from segsrv.settings import Key, Settings
from segsrv.transform.identity import id_of, type_of
from segsrv.transform.trying import tried

ITEMS_MAX = 20
QUERY_CHARS_MAX = 8_192
SHOWN = (FLAT, COMPAT, SEGMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A request as a client would send it: `credential` is its key, empty for one in the body."""

    path: str
    body: bytes
    credential: str = ""
    address: str = ""
    user_agent: str = ""


@dataclass(slots=True)
class Verdict:
    """What would be answered, and what would become of each item, by format.

    `sinks` has what the functions of each sink make of the events, see `segsrv.transform.trying`.
    """

    status: int = 200
    code: str = "ok"
    message: str = ""
    key: str = ""
    output: str = ""
    events: int = 0
    items: list[dict[str, Any]] = field(default_factory=list)
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def refuse(self, error: SegsrvError) -> None:
        self.status, self.code, self.message = error.status, error.code, str(error)


class Trial:
    """Tries requests by *settings*, which have all keys; *make_pipeline* makes one with look-ups.

    `run` may be called in any thread.
    """

    def __init__(self, settings: Settings, make_pipeline: Callable[[], Pipeline]) -> None:
        self._settings = settings
        self._make_pipeline = make_pipeline
        self._keyring = Keyring(settings.all_keys())
        self._paths = ingest_paths()

    def use_keys(self, keys: Sequence[Key]) -> None:
        """Know *keys* from now on, and no others."""
        self._settings = replace(self._settings, write_key=(), keys=tuple(keys))
        self._keyring = Keyring(keys)

    def run(self, attempt: Attempt, *, outputs: tuple[Format, ...] = ()) -> Verdict:
        """Return what would become of *attempt*, shown in *outputs* besides what is stored."""
        verdict = Verdict()
        try:
            path, _mark, query = attempt.path.partition("?")
            said = dict(parse_qsl(query[:QUERY_CHARS_MAX]))
            target = self._target(path)
            credential = attempt.credential or said.get("token") or said.get("writeKey")
            if credential:
                self._keyring.from_body(credential)
            payload = self._parsed(attempt.body, target)
            verdict.events = len(payload.items)
            key = self._keyring.from_body(credential or payload.write_key)
            verdict.key = key.id
            check_shape(payload, target)
            output = output_of(target, key)
            verdict.output = output.name
            sender = self._sender(attempt, target, key, said)
            shown, pipeline = dict.fromkeys((output, *outputs)), self._make_pipeline()
            verdict.items = [
                _item(payload, index, pipeline, sender, list(shown), key)
                for index in range(min(len(payload.items), ITEMS_MAX))
            ]
            if not payload.is_batch and (refused := verdict.items[0][output.name]["code"]):
                raise BadRequest(verdict.items[0][output.name]["message"], code=refused)
        except SegsrvError as error:
            verdict.refuse(error)
        return verdict

    async def run_whole(self, attempt: Attempt, *, outputs: tuple[Format, ...] = ()) -> Verdict:
        """Do as `run` does, in a thread, and send what would be stored through the functions."""
        verdict = await asyncio.to_thread(self.run, attempt, outputs=outputs)
        now_ms = time.time_ns() // 1_000_000
        lines, facts = [], []
        for item in verdict.items:
            event = item[verdict.output]["event"]
            if event is not None:
                line = orjson.dumps(event) + b"\n"
                lines.append(line)
                kind, event_id = type_of(event, verdict.output), id_of(event, verdict.output)
                facts.append(Facts(verdict.key, verdict.output, now_ms, kind, len(line), event_id))
        verdict.sinks = await tried(self._settings, lines, facts)
        return verdict

    def _target(self, path: str) -> Target:
        target = self._paths.get(normalised(path))
        if target is None:
            raise NotFound(f"there is nothing at POST {path[:200]}")
        return target

    def _parsed(self, body: bytes, target: Target) -> Payload:
        settings = self._settings
        if not body:
            raise BadRequest("the body is empty", code="invalid_json")
        if len(body) > settings.body_bytes_max:
            raise BadRequest(
                f"the body has {len(body)} bytes, the limit is {settings.body_bytes_max}",
                code="body_too_large",
            )
        for _ in check_values(body, settings.body_values_max):
            pass
        return parse(
            body,
            batch_events_max=settings.batch_events_max,
            batch_shared_bytes_max=settings.batch_shared_bytes_max,
            takes_array=target.takes_array,
        )

    def _sender(self, attempt: Attempt, target: Target, key: Key, said: dict[str, str]) -> Sender:
        settings = self._settings
        return Sender(
            api_key={"secret": f"[key {key.id}]", "id": key.id, "none": None}[
                settings.stored_api_key
            ],
            address=attempt.address,
            user_agent=attempt.user_agent,
            cookie_policy=_policy(said.get("cookie_policy"), settings.cookie_policy),
            ip_policy=_policy(said.get("ip_policy"), settings.ip_policy),
            event_type=target.event_type,
            is_client=target.is_client,
            gives_user_agent=target.gives_user_agent,
            correct_timestamps=settings.correct_timestamps,
            types=frozenset(key.types),
        )


def _policy(said: str | None, default: Policy) -> Policy:
    return next((policy for policy in POLICIES if policy == said), default)


def _item(
    payload: Payload,
    index: int,
    pipeline: Pipeline,
    sender: Sender,
    outputs: list[Format],
    key: Key,
) -> dict[str, Any]:
    return {
        output.name: _redacted(_told(explain(payload, index, pipeline, sender, output)), key)
        for output in outputs
        if output is TRACKER or output in SHOWN
    }


def _told(explained: Explained) -> dict[str, Any]:
    return {
        "event": explained.event,
        "code": explained.code,
        "message": explained.message,
        "steps": [step._asdict() for step in explained.steps],
    }


def _redacted(told: dict[str, Any], key: Key) -> dict[str, Any]:
    """Return *told* with the key's id wherever the client has put one of its secrets."""
    text = orjson.dumps(told)
    for secret in sorted(key.secrets, key=len, reverse=True):
        text = text.replace(orjson.dumps(secret)[1:-1], orjson.dumps(f"[key {key.id}]")[1:-1])
    redacted: dict[str, Any] = orjson.loads(text)
    return redacted
