#!/usr/bin/env bash
# Installs PostgreSQL's server from Debian; Debian's own cluster is neither made nor started.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

packages=()
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || packages+=(postgresql)
[[ -x /usr/sbin/pgbouncer ]] || packages+=(pgbouncer)
command -v openssl >/dev/null || packages+=(openssl)
install_packages "${packages[@]}"
