#!/usr/bin/env bash
# Installs what the SDK tests run: Node, npm and Go if they are missing (from Debian's packages),
# the Node SDKs, the Go clients as programs in build/, and older releases of the Python SDK, whose
# current one comes with the project's `test` extra. Running it again costs next to nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../debian.sh

packages=()
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
command -v go >/dev/null || packages+=(golang-go)
install_packages "${packages[@]}"

# npm writes this file last, so it says which lock the installed packages belong to.
if [[ ! node/node_modules/.package-lock.json -nt node/package-lock.json ]]; then
    npm --prefix node ci --loglevel=error >/dev/null
fi

# The clients need no C compiler, and must not make a newer Go download itself.
export CGO_ENABLED=0 GOTOOLCHAIN=local
(
    cd go
    go mod download
    go build -buildvcs=false -o ../build/go_client ./client
    go build -buildvcs=false -o ../build/go_example ./example
)

./install_versions.sh
./install_browser.sh
./install_jvm_rust.sh
