# Sourced by the scripts that install what tests run: Debian's packages, as root or by sudo.

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive

# One apt at a time, since scripts run beside one another. Services that a package starts must not
# keep the lock.
run_apt() {
    "${as_root[@]}" flock --close /tmp/segsrv-apt.lock apt-get "$@"
}

# Fetches the lists of packages, without which apt may find none.
update_packages() {
    run_apt update -qq
}

# Installs the packages named; with none named it does nothing.
install_packages() {
    (($#)) || return 0
    update_packages
    # dpkg has no quiet mode of its own; errors still arrive on stderr.
    run_apt install -qq --yes --no-install-recommends "$@" >/dev/null
}
