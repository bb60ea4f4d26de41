#!/usr/bin/env bash
# Installs Python SDKs that can't share an environment, each into a folder of its own in build/:
# older releases of Segment's, which speak to servers differently, and those of other vendors.
# Segment's current one comes with the project's `test` extra.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

releases=(
    segment-analytics-python==2.3.4
    segment-analytics-python==2.2.3
    rudder-sdk-python==2.1.9
    customerio-cdp-analytics==1.1.0
    events-sdk-python==0.0.4
)
missing=()
for release in "${releases[@]}"; do
    # Written last, so that an interrupted installation is done again.
    [[ -f build/${release/==/-}/.installed ]] || missing+=("$release")
done
((${#missing[@]})) || exit 0

# Debian's Python comes without pip, but makes an environment that has it. Such an environment
# belongs to one Python, so it is made anew.
rm -rf build/pip
python3 -m venv build/pip
constraints=build/pip/constraints.txt
# Two of the project's own pins are for the current release.
grep -v -e '^segment-analytics-python==' -e '^PyJWT==' ../../constraints.txt >"$constraints"
for release in "${missing[@]}"; do
    folder=build/${release/==/-}
    rm -rf "$folder"
    build/pip/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint "$constraints" --target "$folder" "$release"
    touch "$folder/.installed"
done
rm -rf build/pip
