#!/usr/bin/env bash
# Installs the reverse proxies that the tests put in front of the server, from Debian's packages, if
# they are missing. Running it again costs nothing.
set -euo pipefail

packages=()
# Debian keeps both outside of a user's path.
PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || packages+=(nginx-light)
command -v haproxy >/dev/null || packages+=(haproxy)
command -v caddy >/dev/null || packages+=(caddy)
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
