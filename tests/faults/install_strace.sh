#!/usr/bin/env bash
# Installs strace, with which the tests make a disk hang, from Debian's package, if it is missing.
# Running it again costs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

packages=()
command -v strace >/dev/null || packages+=(strace)
install_packages "${packages[@]}"
