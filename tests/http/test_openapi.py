"""The description of the interface: complete, valid, and true of the running server."""

import os
import re
import subprocess
import sys

import pytest
import schemathesis

from segsrv import Settings, create_app
from segsrv.http.openapi import PATH, document
from tests.server_process import REPOSITORY
from tests.site import KEY, started_site

TIMEOUT_S = 300
# One path of each kind: those of a kind share a handler and differ in nothing that a check sees.
OF_EACH_KIND = (
    "/api/v1/segment",
    "/api/v1/segment/compat/v1/batch",
    "/v1/t",
    "/v1/pixel/track",
    "/v1/m",
    "/api.{random}",
    "/v1/projects/{key}/settings",
    "/sourceConfig",
    "/health",
    "/ready",
    "/metrics",
    PATH,
)
# Its place is where a server says 405 for a method that a path has not; segsrv says 404 of every
# pair of method and path that is not there, OPTIONS excepted, which is answered everywhere.
INAPPLICABLE_CHECKS = "unsupported_method"


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """One server for the module; it has made events from thousands of requests at the end."""
    with started_site(tmp_path_factory.mktemp("described") / "data") as running:
        yield running


def run_schemathesis(site, folder, *options, key=KEY) -> str:
    """Run it against the server; return what it printed, and fail if a check failed."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", site.process.url + PATH]
    command += ["--url", site.process.url, "--header", f"X-Write-Key: {key}", "--mode", "all"]
    command += ["--exclude-checks", INAPPLICABLE_CHECKS, "--seed", "1", "--no-color"]
    command += ["--continue-on-failure", "--warnings", "off", *options]
    run = subprocess.run(
        command,
        # It keeps what it found below its working directory.
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(REPOSITORY),
            "SCHEMATHESIS_HOOKS": "tests.http.schemathesis_hooks",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8_000:] + run.stderr[-2_000:]
    return run.stdout


def cases_of(output) -> int:
    return int(re.search(r"^\s+(\d+) generated", output, re.MULTILINE)[1])


class TestDocument:
    def test_it_has_exactly_the_paths_that_are_served(self, tmp_path):
        """Every route of the application is described, and nothing is that it does not serve."""
        app = create_app(Settings(write_key=("key",), data_dir=tmp_path))
        served = {
            (route.method.lower(), route.resource.canonical)
            for route in app.router.routes()
            if route.method in ("GET", "POST")
        }
        described = {
            (method, path)
            for path, methods in document(Settings())["paths"].items()
            for method in methods
        }

        assert described == served

    def test_it_is_a_valid_description(self):
        """It conforms to OpenAPI's own schema, and no operation has another's id."""
        description = document(Settings())
        schemathesis.openapi.from_dict(description).validate()
        ids = [
            operation["operationId"]
            for methods in description["paths"].values()
            for operation in methods.values()
        ]

        assert len(ids) == len(set(ids))

    def test_limits_are_those_of_the_settings(self):
        """What a batch and a body may hold is what the server was configured to take."""
        schemas = document(Settings(batch_events_max=7, body_bytes_max=9_999))["components"][
            "schemas"
        ]

        assert schemas["Batch"]["properties"]["batch"]["maxItems"] == 7
        assert "9999" in schemas["Body"]["description"]

    def test_it_is_served_to_pages_without_a_key(self, site):
        """Anybody gets it as JSON, a page of another origin included."""
        answer = site.get(PATH, Origin="https://docs.example.com")

        assert answer.status == 200
        assert answer.headers.get_content_type() == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://docs.example.com"
        assert answer.json()["openapi"].startswith("3.")
        assert set(answer.json()["paths"]) == set(document(Settings())["paths"])


class TestConformance:
    def test_every_operation_answers_as_described(self, described, tmp_path):
        """Examples and generated requests, right and wrong, get the described answers anywhere."""
        output = run_schemathesis(
            described, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "6"
        )
        assert cases_of(output) > 500

    def test_each_kind_of_operation_answers_all_data_as_described(self, described, tmp_path):
        """Boundary values and many generated requests get the described answers at each kind."""
        included = [part for path in OF_EACH_KIND for part in ("--include-path", path)]
        output = run_schemathesis(
            described, tmp_path, "--phases", "coverage,fuzzing", "--max-examples", "100", *included
        )
        assert cases_of(output) > 500

    def test_a_wrong_key_is_refused_as_described(self, described, tmp_path):
        """With a key that is not known, answers are still the described ones."""
        included = [part for path in OF_EACH_KIND for part in ("--include-path", path)]
        output = run_schemathesis(
            described,
            tmp_path,
            *("--phases", "fuzzing", "--max-examples", "20", *included),
            key="no-such-key",
        )
        assert cases_of(output) > 50

    def test_the_server_is_whole_afterwards(self, described):
        """After all of that it takes events and has logged no fault."""
        assert described.post({"type": "track", "userId": "u"}).status == 200
        assert "level=error" not in described.process.stderr
