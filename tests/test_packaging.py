"""What segsrv asks of other packages: floors that CI tests with, and a bound where it must."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.server_process import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = PROJECT["optional-dependencies"]
DRIVERS = [
    Requirement(text)
    for name in sorted(Requirement(EXTRAS["all"][0]).extras)
    for text in EXTRAS[name]
]
REQUIREMENTS = CORE + DRIVERS


def pins(name) -> dict[str, Version]:
    """Return the exact versions that a constraints file names."""
    found = {}
    for line in (REPOSITORY / name).read_text().splitlines():
        package, _equals, version = line.partition("==")
        found[canonicalize_name(package)] = Version(version)
    return found


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
class TestFloors:
    def test_ci_tests_with_the_floor(self, requirement):
        """The lowest version that is allowed is the one in `constraints-lowest.txt`."""
        floors = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        assert len(floors) == 1
        lowest = pins("constraints-lowest.txt")[canonicalize_name(requirement.name)]
        assert lowest == Version(floors[0])

    def test_the_shipped_version_is_allowed(self, requirement):
        """What `constraints.txt` holds is within the bounds."""
        shipped = pins("constraints.txt")[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(shipped)


def test_aiohttp_is_bounded_from_above():
    """Its private parts, which connections are made of, may change with the next minor release."""
    aiohttp = next(requirement for requirement in REQUIREMENTS if requirement.name == "aiohttp")
    shipped = pins("constraints.txt")["aiohttp"]
    assert not aiohttp.specifier.contains(f"{shipped.major}.{shipped.minor + 1}.0")


def test_both_files_test_with_the_same_tools():
    """The two environments differ in what is tested, not in what tests it."""
    lowest, shipped = pins("constraints-lowest.txt"), pins("constraints.txt")
    for tool in ("hypothesis", "pytest", "pytest-aiohttp", "pytest-asyncio", "schemathesis"):
        assert lowest[tool] == shipped[tool]
