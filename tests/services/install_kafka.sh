#!/usr/bin/env bash
# Installs Kafka: Java and Maven from Debian's packages if they are missing, and the broker with its
# dependencies from Maven Central into build/kafka.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../debian.sh

packages=()
command -v java >/dev/null || packages+=(default-jre-headless)
command -v mvn >/dev/null || packages+=(maven)
install_packages "${packages[@]}"

if [[ ! -f build/kafka/.installed || kafka/pom.xml -nt build/kafka/.installed ]]; then
    # Jars of an older release would stay beside the new ones.
    rm -rf build/kafka
    mvn --quiet --batch-mode -Dstyle.color=never --file kafka/pom.xml process-resources
    touch build/kafka/.installed
fi
