"""`segsrv journal verify`: every byte of the journals, the cursors, and what was set aside."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from segsrv.commands import standing
from segsrv.commands.journals import aside, surveys
from segsrv.commands.output import Bar, counted, print_json, size
from segsrv.commands.parts import load
from segsrv.journal.survey import UNFINISHED, Fault, Survey

DAMAGED = 1


@dataclass(slots=True)
class Verified:
    """What was read of one journal; `kept_aside` counts pieces that a server found before."""

    journal: str
    segments: int
    bytes: int
    frames: int = 0
    events: int = 0
    faults: int = 0
    kept_aside: int = 0


def run_verify(flags: argparse.Namespace) -> int:
    """Read all, and print a line for each piece that is damaged."""
    settings = load(flags)
    journals = surveys(settings)
    for part in standing.parts(settings):
        journals[str(part.folder.relative_to(settings.data_dir))] = part.survey()
    faults = 0
    verified = []
    with Bar("journal", sum(survey.bytes for survey in journals.values())) as bar:
        for name, survey in journals.items():
            result = _verify(name, survey, bar, is_json=flags.is_json)
            result.kept_aside = len(aside(survey.directory))
            faults += result.faults
            verified.append(result)
    for line in standing.damaged_cursors(settings):
        faults += 1
        if flags.is_json:
            print_json({"fault": line})
        else:
            print(line)
    for result in verified:
        if flags.is_json:
            print_json(asdict(result))
        else:
            print(_line(result))
    return DAMAGED if faults else 0


def _verify(name: str, survey: Survey, bar: Bar, *, is_json: bool) -> Verified:
    result = Verified(name, len(survey.segments), survey.bytes)
    at = survey.first
    for item in survey.frames():
        if isinstance(item, Fault):
            _report(name, item, is_json=is_json)
            result.faults += item.what != UNFINISHED
            continue
        result.frames += 1
        result.events += item.events
        bar.add(item.position - at)
        at = item.position
    bar.add(max(survey.end - at, 0))
    return result


def _report(name: str, fault: Fault, *, is_json: bool) -> None:
    if is_json:
        print_json({"journal": name, **fault._asdict()})
    else:
        print(
            f"{name}: {fault.name}: {fault.what} from position {fault.position} on, "
            f"{counted(fault.bytes, 'byte')}"
        )


def _line(result: Verified) -> str:
    faults = counted(result.faults, "fault") if result.faults else "sound"
    kept = f", {counted(result.kept_aside, 'piece')} kept aside before" if result.kept_aside else ""
    return (
        f"{result.journal}: {counted(result.segments, 'segment')}, "
        f"{counted(result.events, 'event')}, {size(result.bytes)}: {faults}{kept}"
    )
