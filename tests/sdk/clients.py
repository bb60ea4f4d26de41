"""The SDKs of this folder: how each is started, and what is said when one is missing."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.needs import skip_or_fail
from tests.site import COMPAT, FLAT

HERE = Path(__file__).resolve().parent
CALLS = HERE / "calls.json"
CLIENT_TIMEOUT_S = 60.0
# The one Python SDK that the environment itself has.
TEST_EXTRA = ("segment-analytics-python", "2.4.0")
ENDPOINTS = pytest.mark.parametrize("prefix", [FLAT, COMPAT], ids=["flat", "compat"])


def require(what: str, *, installed: bool, installer: str = "tests/sdk/install.sh") -> None:
    """Skip a test that lacks `what`; in CI fail it, where a skip would hide that it never ran."""
    if not installed:
        skip_or_fail(f"{what} is not installed; {installer} installs it")


def python_program(script: str, package: str, release: str, module: str) -> list[str]:
    """Return the program that sends with the client of *module*, of a release of its own."""
    program = ["env", f"CLIENT_MODULE={module}", sys.executable, str(HERE / script)]
    if (package, release) == TEST_EXTRA:
        installed = importlib.util.find_spec("segment") is not None
        require(f"PyPI's {package}", installed=installed, installer="the test extra")
        return program
    folder = HERE / "build" / f"{package}-{release}"
    require(f"PyPI's {package} {release}", installed=(folder / ".installed").is_file())
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

    `library` is what its events carry, `user_agent` what its requests do. Its events carry the
    fields `times`, and `extra` ones that no call names.
    """

    name: str
    version: str
    program: Callable[[], list[str]]
    library: dict[str, str]
    user_agent: str
    gzip: str = "no"
    times: tuple[str, ...] = ("timestamp", "sentAt")
    extra: dict[str, str] = field(default_factory=dict)


def _python(
    name: str,
    version: str,
    package: str,
    module: str,
    *,
    library: str = "analytics-python",
    user_agent: str = "analytics-python",
    **quirks: Any,
) -> Sdk:
    return Sdk(
        name,
        version,
        lambda: python_program("python_client.py", package, version, module),
        {"name": library, "version": version},
        f"{user_agent}/{version}",
        gzip="optional",
        **quirks,
    )


def _segment_python(version: str) -> Sdk:
    return _python("Python", version, "segment-analytics-python", "segment.analytics.client")


def _node(version: str, package: str) -> Sdk:
    return Sdk(
        "Node.js",
        version,
        lambda: node_program("current_client.mjs", package),
        {"name": "@segment/analytics-node", "version": version},
        "analytics-node-next/latest",
    )


SDKS = {
    "python": _segment_python("2.4.0"),
    "python-2.3.4": _segment_python("2.3.4"),
    "python-2.2.3": _segment_python("2.2.3"),
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
    "rudderstack-python": _python(
        "RudderStack Python",
        "2.1.9",
        "rudder-sdk-python",
        "rudderstack.analytics.client",
        extra={"channel": "server"},
    ),
    "rudderstack-node": Sdk(
        "RudderStack Node.js",
        "3.0.13",
        lambda: node_program("rudderstack_client.mjs", "@rudderstack/rudder-sdk-node"),
        {"name": "analytics-node", "version": "3.0.13"},
        "analytics-node/3.0.13",
        gzip="optional",
        times=("originalTimestamp", "sentAt"),
        extra={"channel": "server"},
    ),
    "customerio-python": _python(
        "Customer.io Python", "1.1.0", "customerio-cdp-analytics", "customerio.analytics.client"
    ),
    "customerio-node": Sdk(
        "Customer.io Node.js",
        "0.5.9",
        lambda: node_program("current_client.mjs", "@customerio/cdp-analytics-node"),
        # The SDK's release 0.5.9 still calls itself so.
        {"name": "@customerio/cdp-analytics-node", "version": "1.0.0-beta.22"},
        "cdp-analytics-node/latest",
        times=("timestamp",),
    ),
    "hightouch-python": _python(
        "Hightouch Python",
        "0.0.4",
        "events-sdk-python",
        "hightouch.htevents.client",
        library="events-sdk-python",
        user_agent="events-sdk-python",
    ),
}
