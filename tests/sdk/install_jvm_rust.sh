#!/usr/bin/env bash
# Installs what the tests of the Java, Kotlin and Rust SDKs run: Java, Maven, Cargo and a linker if
# they are missing (from Debian's packages), and the clients with their SDKs in build/. Running it
# again costs next to nothing, and needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../debian.sh

has_openssl() { pkg-config --exists openssl 2>/dev/null; }

packages=()
command -v javac >/dev/null || packages+=(default-jdk-headless)
command -v mvn >/dev/null || packages+=(maven)
command -v openssl >/dev/null || packages+=(openssl)
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v pkg-config >/dev/null || packages+=(pkg-config)
# The Rust SDK speaks TLS through it.
has_openssl || packages+=(libssl-dev)
if ! command -v cargo >/dev/null; then
    update_packages
    # Debian 12 has a Cargo of 2022, too old for what the SDK builds on, and beside it this one.
    if [[ -n $(apt-cache search --names-only '^cargo-web$') ]]; then
        packages+=(cargo-web)
    else
        packages+=(cargo)
    fi
fi
install_packages "${packages[@]}"

# Says whether a client must be built: it never was, or its sources (the other arguments) are newer.
is_stale() {
    local installed=build/$1/.installed
    shift
    [[ ! -f $installed || -n $(find "$@" -newer "$installed") ]]
}

for client in java kotlin; do
    if is_stale "$client" "$client/src" "$client/pom.xml"; then
        # Jars of an older release would stay beside the new ones.
        rm -rf "build/$client"
        mvn --quiet --batch-mode -Dstyle.color=never --file "$client/pom.xml" compile
        touch "build/$client/.installed"
    fi
done

# RudderStack's SDK is Segment's under other names, so its client is made of the same source. It
# compresses its requests unless told otherwise.
if is_stale rudderstack-java java/src java/pom.xml install_jvm_rust.sh; then
    rm -rf build/rudderstack-java
    mkdir -p build/rudderstack-java/src
    sed -e 's/com\.segment\.analytics\./com.rudderstack.sdk.java.analytics./' \
        -e 's/\bAnalytics\b/RudderAnalytics/' \
        -e 's/\.builder(arguments\[2\])/&.setGZIP("1".equals(System.getenv("GZIP")))/' \
        java/src/JavaClient.java >build/rudderstack-java/src/JavaClient.java
    mvn --quiet --batch-mode -Dstyle.color=never --file java/pom.xml -P rudderstack compile
    touch build/rudderstack-java/.installed
fi

if is_stale rust rust/src rust/Cargo.toml; then
    CARGO_TARGET_DIR=build/rust cargo build --quiet --manifest-path rust/Cargo.toml
    touch build/rust/.installed
fi
