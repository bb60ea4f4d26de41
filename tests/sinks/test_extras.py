"""segsrv starts without any driver, and says which extra a setting needs."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.server_process import REPOSITORY

DRIVERS = ("duckdb", "_duckdb", "asyncpg", "confluent_kafka", "obstore")
NO_SITE = "-S"
"""Without `site`, Python finds no packages but those of PYTHONPATH."""


@pytest.fixture
def plain(tmp_path) -> dict[str, str]:
    """Return an environment whose Python finds all installed packages but the drivers."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(DRIVERS):
            (packages / path.name).symlink_to(path)
    return os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{packages}"}


def config_of(tmp_path: Path) -> str:
    return f'[[sinks]]\nname = "f"\nurl = "file:{tmp_path / "e"}"\nencoding = "parquet"\n'


def check(
    config: str, tmp_path: Path, environ: dict[str, str], *flags: str
) -> subprocess.CompletedProcess:
    path = tmp_path / "segsrv.toml"
    path.write_text(f'data_dir = "{tmp_path / "data"}"\n{config}')
    command = [sys.executable, *flags, "-m", "segsrv", "check", "--config", path]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_no_extras(tmp_path, plain):
    """An installation without extras has all that files need."""
    done = check("", tmp_path, plain, NO_SITE)

    assert done.returncode == 0, done.stderr


def test_parquet(tmp_path, plain):
    """Parquet without its extra is one line that says what to install, and no start."""
    done = check(config_of(tmp_path), tmp_path, plain, NO_SITE)

    assert done.returncode != 0
    assert "sinks.f.encoding=parquet: needs duckdb; install segsrv[parquet]" in done.stderr
    assert "Traceback" not in done.stderr


def test_parquet_with_its_extra(tmp_path):
    """With the extra there is nothing to say."""
    done = check(config_of(tmp_path), tmp_path, dict(os.environ))

    assert done.returncode == 0, done.stderr
