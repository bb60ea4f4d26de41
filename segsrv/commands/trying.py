"""`segsrv try`: what would become of a request, without a server and without storing anything."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import orjson

from segsrv.commands.output import counted, harmless, print_json
from segsrv.commands.parts import guarded
from segsrv.errors import SettingsError
from segsrv.events import COMPAT, FLAT, SEGMENT, Format, Pipeline
from segsrv.events.user_agents import UserAgents
from segsrv.geoip.databases import Databases
from segsrv.http.trying import ITEMS_MAX, Attempt, Trial, Verdict
from segsrv.settings import Settings, sources
from segsrv.write_keys import with_file_keys, with_kept_key

REFUSED = 1
READ_BYTES_MAX = 64 << 20
FORMATS = {output.name: output for output in (FLAT, COMPAT, SEGMENT)}
_GZIP = b"\x1f\x8b"


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    text = "say what would become of a request: what is stored and why, or why it is refused"
    parser = commands.add_parser("try", help=text, description=text, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="the request's body, - for standard input")
    parser.add_argument(
        "--path", default="/v1/batch", metavar="PATH", help="that it is posted to (/v1/batch)"
    )
    parser.add_argument("--key", metavar="SECRET", help="the key that it is sent with")
    parser.add_argument(
        "--key-id", metavar="ID", help="the same, by the id of a key; else the body's writeKey"
    )
    parser.add_argument(
        "--format",
        choices=(*FORMATS, "all"),
        help="show it in this format too, or in all; else in the one that it would be stored in",
    )
    parser.add_argument("--address", default="", metavar="IP", help="of the client")
    parser.add_argument("--user-agent", default="", metavar="TEXT", help="of the request")
    parser.add_argument("--json", action="store_true", dest="is_json", help="for scripts")
    sources.add_flags(parser, names=("data_dir", "geoip_db"))
    parser.set_defaults(run=guarded(run))


def run(flags: argparse.Namespace) -> int:
    """Print it; return 0 if the answer would be 200 and every item stored, else 1."""
    settings = with_kept_key(with_file_keys(sources.load(vars(flags), os.environ)))
    attempt = Attempt(
        path=flags.path,
        body=_body(flags.file),
        credential=_credential(settings, flags),
        address=flags.address,
        user_agent=flags.user_agent,
    )
    trial = Trial(settings, partial(_pipeline, settings))
    verdict = asyncio.run(trial.run_whole(attempt, outputs=_outputs(flags.format)))
    if flags.is_json:
        print_json(asdict(verdict))
    else:
        _print(verdict, settings)
    is_whole = all(not item[verdict.output]["code"] for item in verdict.items)
    return 0 if verdict.status == 200 and is_whole else REFUSED


def _body(name: str) -> bytes:
    """Return what is in the file, decompressed.

    Raises:
        SettingsError: It can't be read, is larger than any body may be, or is no gzip inside.

    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(READ_BYTES_MAX + 1)
        else:
            with open(name, "rb") as file:  # noqa: PTH123 - a name, as it was given.
                data = file.read(READ_BYTES_MAX + 1)
        if data.startswith(_GZIP):
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"{name}: can't be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise SettingsError(f"{name}: is no whole gzip: {error}") from error
    if len(data) > READ_BYTES_MAX:
        raise SettingsError(f"{name}: more than {READ_BYTES_MAX} bytes")
    return data


def _credential(settings: Settings, flags: argparse.Namespace) -> str:
    if flags.key_id is None:
        return flags.key or ""
    for key in settings.all_keys():
        if key.id == flags.key_id:
            return key.secret
    raise SettingsError(f"--key-id={flags.key_id}: no key has this id")


def _outputs(name: str | None) -> tuple[Format, ...]:
    if name is None:
        return ()
    return tuple(FORMATS.values()) if name == "all" else (FORMATS[name],)


def _pipeline(settings: Settings) -> Pipeline:
    user_agents = UserAgents(entries_max=1_000, bot_words=settings.bot_words)
    databases = Databases(settings.geoip_db, entries_max=1_000, copy_dir=None)
    return Pipeline(
        event_bytes_max=settings.event_bytes_max,
        parse_user_agent=user_agents.parse,
        locate=databases.geo.locate,
    )


def _print(verdict: Verdict, settings: Settings) -> None:
    lines = []
    if verdict.status != 200:
        message = _on_a_line(verdict.message)
        lines.append(f"refused: {verdict.status} {verdict.code}: {message}")
        if verdict.code == "unauthorized":
            known = ", ".join(key.id for key in settings.all_keys()) or "none"
            lines.append(f"keys that are known here: {known}; see --key and --key-id")
    else:
        events = counted(verdict.events, "event")
        lines.append(f"accepted: 200, {events}, key {verdict.key}, format {verdict.output}")
    for number, item in enumerate(verdict.items, 1):
        for output, told in item.items():
            lines += ["", f"event {number}, {output}:", *_item_lines(told)]
    for sink, made in verdict.sinks.items():
        lines += ["", *_sink_lines(sink, made)]
    if verdict.events > ITEMS_MAX:
        lines += ["", f"the first {ITEMS_MAX} of {verdict.events} are shown"]
    if not settings.geoip_db:
        lines += ["", "no GeoIP database is set (geoip_db), so no address is looked up"]
    print(harmless("\n".join(lines)))


def _sink_lines(sink: str, made: dict[str, Any]) -> Sequence[str]:
    if made["message"]:
        return [f"sink {sink}: {made['message']}"]
    lines = [f"sink {sink}, after its functions: {counted(len(made['events']), 'event')}"]
    lines += [f"  {orjson.dumps(event).decode()}" for event in made["events"]]
    for fault in made["faults"]:
        lines.append(f"  event {fault['number'] + 1} is set aside: {fault['message']}")
        lines += [f"    {line}" for line in fault["traceback"].splitlines()]
    return lines


def _on_a_line(text: str) -> str:
    """Return *text* so that what a client has in it makes no line of its own."""
    return text.replace("\n", "\\n")


def _item_lines(told: dict[str, Any]) -> Sequence[str]:
    if told["code"]:
        return [f"  set aside: {told['code']}: {_on_a_line(told['message'])}"]
    lines = []
    for said in told["steps"]:
        step = {name: _on_a_line(text) for name, text in said.items()}
        if step["how"] == "left out":
            line = f"  - {step['source']} is left out ({step['value']})"
        elif step["how"] == "moved":
            line = f"  {step['target']} = {step['value']}  from {step['source']}"
        else:
            line = f"  {step['target']} = {step['value']}  {step['how']}: {step['why']}"
        lines.append(line)
    return lines or ["  stored as it was sent"]
