"""docs/commands.md names every command and every flag that only a command has."""

import argparse
import re

import pytest

from segsrv import cli
from tests.server_process import REPOSITORY

DOCS = (REPOSITORY / "docs" / "commands.md").read_text()
SHARED = {"-h", "--help", "--config", "--data-dir", "--json"}


def commands(parser, names=()):
    """Yield the words of each command and its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*names, name))
            return
    yield " ".join(names), parser


COMMANDS = dict(commands(cli._parser()))


def test_every_command_is_in_the_table():
    """And nothing else is."""
    documented = re.findall(r"^\| `segsrv ([a-z -]+)` \|", DOCS, re.MULTILINE)
    assert sorted([*documented, "serve"]) == sorted(COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if " " in name and "geoip" not in name])
def test_every_flag_is_explained(name):
    """In the section of its commands; those of the settings are in docs/configuration.md."""
    flags = {flag for action in COMMANDS[name]._actions for flag in action.option_strings}
    section = DOCS.partition(f"\n## {name.split()[0]}\n")[2].partition("\n## ")[0]
    assert [flag for flag in sorted(flags - SHARED) if flag not in section] == []
