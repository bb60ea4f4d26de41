#!/usr/bin/env bash
# Installs what the browser tests run: Chromium if it is missing (from Debian's packages), and the
# browser SDKs with the snippet that loads one. Running it again costs next to nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../debian.sh

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v openssl >/dev/null || packages+=(openssl)
install_packages "${packages[@]}"

# npm writes this file last, so it says which lock the installed packages belong to.
if [[ ! browser/node_modules/.package-lock.json -nt browser/package-lock.json ]]; then
    npm --prefix browser ci --loglevel=error >/dev/null
fi
