#!/usr/bin/env bash
# Installs promtool, which checks the metrics and the alert rules, if it is missing. Only that of
# Debian's package: all of it would start a server. Running it again costs nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../debian.sh"

command -v promtool >/dev/null && exit 0
update_packages
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# apt drops its rights to fetch, if it can.
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq prometheus)
dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool
"${as_root[@]}" install -m 755 "$folder/usr/bin/promtool" /usr/local/bin/promtool
