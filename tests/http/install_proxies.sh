#!/usr/bin/env bash
# Installs the reverse proxies that the tests put in front of the server, from Debian's packages, if
# they are missing. Running it again costs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

packages=()
# Debian keeps both outside of a user's path.
PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || packages+=(nginx-light)
command -v haproxy >/dev/null || packages+=(haproxy)
command -v caddy >/dev/null || packages+=(caddy)
install_packages "${packages[@]}"
