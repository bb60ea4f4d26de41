#!/usr/bin/env bash
# Installs older releases of the Python SDK, which speak to servers differently, each into a folder
# of its own in build/. The current one comes with the project's `test` extra.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

releases=(2.3.4 2.2.3)
missing=()
for release in "${releases[@]}"; do
    # Written last, so that an interrupted installation is done again.
    [[ -f build/python-$release/.installed ]] || missing+=("$release")
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
    rm -rf "build/python-$release"
    build/pip/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint "$constraints" --target "build/python-$release" \
        "segment-analytics-python==$release"
    touch "build/python-$release/.installed"
done
rm -rf build/pip
