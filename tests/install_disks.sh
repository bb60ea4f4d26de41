#!/usr/bin/env bash
# Installs what makes and mounts the small disks of the tests, from Debian's packages, if it is
# missing. Running it again costs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

packages=()
# Debian keeps some of it outside of a user's path.
PATH=$PATH:/usr/sbin:/sbin
command -v mount >/dev/null || packages+=(mount)
command -v mkfs.ext4 >/dev/null || packages+=(e2fsprogs)
install_packages "${packages[@]}"
