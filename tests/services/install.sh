#!/usr/bin/env bash
# Installs all services that the tests of sinks run, beside one another. Running it again costs
# next to nothing. With arguments it installs those only: `install.sh kafka postgresql`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

names=("$@")
if ((!$#)); then
    for script in install_*.sh; do
        [[ -e $script ]] || continue
        name=${script#install_}
        names+=("${name%.sh}")
    done
fi

mkdir -p build
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
declare -A jobs=()
for name in "${names[@]}"; do
    bash "./install_$name.sh" >"$logs/$name" 2>&1 &
    jobs[$name]=$!
done
failed=0
for name in "${names[@]}"; do
    if ! wait "${jobs[$name]}"; then
        printf 'install_%s.sh failed:\n' "$name" >&2
        cat "$logs/$name" >&2
        failed=1
    fi
done
exit $failed
