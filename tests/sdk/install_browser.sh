#!/usr/bin/env bash
# Installs what the browser tests run: Chromium if it is missing (from Debian's packages), and the
# browser SDKs with the snippet that loads one. Running it again costs next to nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v openssl >/dev/null || packages+=(openssl)
if ((${#packages[@]})); then
    as_root=()
    if ((EUID != 0)); then
        as_root=(sudo)
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" apt-get update -qq
    # dpkg has no quiet mode of its own; errors still arrive on stderr.
    "${as_root[@]}" apt-get install -qq --yes --no-install-recommends "${packages[@]}" >/dev/null
fi

# npm writes this file last, so it says which lock the installed packages belong to.
if [[ ! browser/node_modules/.package-lock.json -nt browser/package-lock.json ]]; then
    npm --prefix browser ci --loglevel=error >/dev/null
fi
