"""A small database of places, so that looking up addresses takes what it takes in production."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from machine import REPOSITORY
from payloads import ADDRESS_PREFIXES

if TYPE_CHECKING:
    from pathlib import Path

# Records name places in so many languages, as the public databases do.
LANGUAGES = ("de", "en", "es", "fr", "ja", "pt-BR", "ru", "zh-CN")


def write_database(path: Path) -> Path:
    """Write a city database that knows every address that the load comes from."""
    networks = {f"{prefix}.0/24": _place(index) for index, prefix in enumerate(ADDRESS_PREFIXES)}
    # Heads that are all new come from these: one place for each of 256 networks.
    networks |= {f"81.{byte}.0.0/16": _place(100 + byte) for byte in range(256)}
    _writer().write_mmdb(path, networks, languages=LANGUAGES)
    return path


def _place(number: int) -> dict[str, Any]:
    country = {
        "geoname_id": 2_900_000 + number % 7,
        "iso_code": ("DE", "GB", "US", "SE", "CN", "PH", "FR")[number % 7],
        "names": _names("Country", number % 7),
    }
    return {
        "city": {"geoname_id": 3_000_000 + number, "names": _names("City", number)},
        "continent": {"code": "EU", "geoname_id": 6_255_148, "names": _names("Continent", 1)},
        "country": country,
        "location": {
            "accuracy_radius": 20,
            "latitude": 40 + number / 16,
            "longitude": number / 8,
            "time_zone": "Europe/Berlin",
        },
        "postal": {"code": str(10_000 + number)},
        "registered_country": country,
        "subdivisions": [
            {"geoname_id": 3_200_000 + number, "iso_code": "BE", "names": _names("Region", number)}
        ],
    }


def _names(kind: str, number: int) -> dict[str, str]:
    return {language: f"{kind} {number} ({language})" for language in LANGUAGES}


def _writer() -> Any:
    """Load the tests' writer: it is no part of any package."""
    spec = importlib.util.spec_from_file_location("mmdb", REPOSITORY / "tests" / "mmdb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
