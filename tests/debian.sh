# Sourced by the scripts that install what tests run: Debian's packages, as root or by sudo.

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive

# Fetches the lists of packages, without which apt may find none.
update_packages() {
    "${as_root[@]}" apt-get update -qq
}

# Installs the packages named; with none named it does nothing.
install_packages() {
    (($#)) || return 0
    update_packages
    # dpkg has no quiet mode of its own; errors still arrive on stderr.
    "${as_root[@]}" apt-get install -qq --yes --no-install-recommends "$@" >/dev/null
}
