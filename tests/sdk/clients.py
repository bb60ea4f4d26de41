"""The SDKs of this folder: how each is started, and what is said when one is missing."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import skip_or_fail
from tests.site import COMPAT, FLAT

HERE = Path(__file__).resolve().parent
CALLS = HERE / "calls.json"
CLIENT_TIMEOUT_S = 60.0
ENDPOINTS = pytest.mark.parametrize("prefix", [FLAT, COMPAT], ids=["flat", "compat"])


def require(what: str, *, installed: bool, installer: str = "tests/sdk/install.sh") -> None:
    """Skip a test that lacks `what`; in CI fail it, where a skip would hide that it never ran."""
    if not installed:
        skip_or_fail(f"{what} is not installed; {installer} installs it")


def python_program(script: str, older_release: str = "") -> list[str]:
    program = [sys.executable, str(HERE / script)]
    if not older_release:
        installed = importlib.util.find_spec("segment") is not None
        require("PyPI's segment-analytics-python", installed=installed, installer="the test extra")
        return program
    folder = HERE / "build" / f"python-{older_release}"
    require(
        f"PyPI's segment-analytics-python {older_release}",
        installed=(folder / ".installed").is_file(),
    )
    # What the variable names is found before the environment's own packages.
    return ["env", f"PYTHONPATH={folder}", *program]


def node_program(script: str, package: str) -> list[str]:
    node = shutil.which("node")
    require("node", installed=node is not None)
    folder = HERE / "node"
    require(f"npm's {package}", installed=(folder / "node_modules" / package).is_dir())
    return ["env", f"PACKAGE={package}", str(node), str(folder / script)]


def go_program(name: str) -> list[str]:
    program = HERE / "build" / name
    require(f"the Go program {name}", installed=program.is_file())
    return [str(program)]


def attempt(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, be it a success or not."""
    # Some of the SDKs would send even loopback requests to a proxy of the caller's.
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.run(
        command,
        env=inherited | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
        check=False,
    )


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, which must be a success."""
    ended = attempt(command, **variables)
    assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended


@dataclass(frozen=True)
class Sdk:
    """One SDK: its row in the table, how its program is found, and how it names itself.

    `library` is what its events carry, `user_agent` what its requests do.
    """

    name: str
    version: str
    program: Callable[[], list[str]]
    library: dict[str, str]
    user_agent: str
    can_gzip: bool = False


def _python(version: str, older_release: str = "") -> Sdk:
    return Sdk(
        "Python",
        version,
        lambda: python_program("python_client.py", older_release),
        {"name": "analytics-python", "version": version},
        f"analytics-python/{version}",
        can_gzip=True,
    )


def _node(version: str, package: str) -> Sdk:
    return Sdk(
        "Node.js",
        version,
        lambda: node_program("current_client.mjs", package),
        {"name": "@segment/analytics-node", "version": version},
        "analytics-node-next/latest",
    )


SDKS = {
    "python": _python("2.4.0"),
    "python-2.3.4": _python("2.3.4", "2.3.4"),
    "python-2.2.3": _python("2.2.3", "2.2.3"),
    "node-retired": Sdk(
        "Node.js (analytics-node)",
        "6.2.0",
        lambda: node_program("retired_client.mjs", "analytics-node"),
        {"name": "analytics-node", "version": "6.2.0"},
        "analytics-node/6.2.0",
    ),
    "node": _node("3.1.0", "@segment/analytics-node"),
    "node-3.0.0": _node("3.0.0", "segment-analytics-node-3.0.0"),
    "go": Sdk(
        "Go",
        "3.3.0",
        lambda: go_program("go_client"),
        # The SDK's release 3.3.0 still calls itself 3.0.0.
        {"name": "analytics-go", "version": "3.0.0"},
        "analytics-go (version: 3.0.0)",
    ),
}
