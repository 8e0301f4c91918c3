#!/bin/bash
# agent/build.sh [amd64|arm64]   builds the agent as images have it: static, for that machine or else this one, and the same bytes each time. Prints where it is.
# The probe has to be built before (probe/build.sh). For the other machine: its C compiler, and Debian's rustc-web; `.ci/setup image arm64` gets both.
#
# Static, so that one binary runs on any base image and on none. With glibc, not musl: its resolver and allocator are the ones the agent is tested and measured
# with, and what resolves names by files and DNS is within its static library since 2.34.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=agent/tests/guests/debian.sh
. agent/tests/guests/debian.sh
native=$(dpkg --print-architecture)
machine=${1:-$native}
case $machine in
amd64) name=x86_64 ;;
arm64) name=aarch64 ;;
*) echo "agent: there is no image for $machine, but for amd64 and arm64" >&2; exit 2 ;;
esac
target=$name-unknown-linux-gnu

# Where it is built is not told to the binary: neither the tree nor the folder of the crates, whose name depends on where they were got.
cargo fetch --locked --quiet --target "$target"
flags=(-Ctarget-feature=+crt-static "--remap-path-prefix=$PWD=.")
for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    flags+=("--remap-path-prefix=${folder%/}=crates")
done
# As agent/build.rs has it for other binaries; whether a C library can start a static one that is packed, only who chooses that library knows: Debian's can.
[ "$machine" != amd64 ] || flags+=("-Clink-arg=-Wl,-z,pack-relative-relocs")
if [ "$machine" != "$native" ]; then
    sysroot=$(rust_sysroot "$machine" "$target")
    flags+=("--sysroot=$sysroot")
    linker=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_LINKER
    export "$linker=$name-linux-gnu-gcc"
fi
# What a caller compiles its own programs with is not for this one.
unset CARGO_BUILD_TARGET CARGO_TARGET_DIR RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
# Apart from each other, so that paths may have spaces.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
cargo build --locked --quiet --release --bin oom-watcher --target "$target"
echo "target/$target/release/oom-watcher"
