#!/usr/bin/env bash
# ClickHouse twice: Debian's server, which is old but a real server, and the current engine, which
# PyPI has as a library, in an environment of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=../debian.sh
source ../debian.sh

if ! command -v clickhouse-server >/dev/null; then
    install_packages clickhouse-server
fi
if [[ ! -e build/chdb/.installed ]]; then
    rm -rf build/chdb
    python3 -m venv build/chdb
    build/chdb/bin/python -m pip install --quiet 'chdb-core>=26.9,<27' 'backports.zstd>=1.3'
    touch build/chdb/.installed
fi
