#!/bin/bash
# probe/build.sh           builds the eBPF object target/ebpf/bpfel-unknown-none/probe/oom-watcher-probe, which agent/build.rs embeds
# probe/build.sh clippy    lints the eBPF programs instead, with the clippy beside the compiler
# Needs a compiler with a core library for eBPF and bpf-linker for the same LLVM (probe/toolchain.sh): `make setup` installs Debian's.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=probe/toolchain.sh
. probe/toolchain.sh
fail() {
    echo "probe: $1: run 'make setup' on Debian 12 or later; elsewhere see \"Building elsewhere\" in CONTRIBUTING.md" >&2
    exit 1
}
bpf_rustc_works || fail "$bpf_rustc has no core library for $bpf_target"
llvm=$(bpf_llvm)
linker=$(bpf_linker "$llvm") || fail "there is no bpf-linker $bpf_linker_version for LLVM $llvm"

# What a caller compiles its own programs with is not for these. RUSTC_BOOTSTRAP: the target is not a stable one. A target directory of its own: another compiler.
unset CARGO_BUILD_TARGET RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
export RUSTC=$bpf_rustc RUSTC_BOOTSTRAP=1
# The debug information names files as in the tree, wherever that is: the same sources make the same object, and agents that were built apart know it as the same.
flags=("-Clinker=$linker" -Cdebuginfo=2 -Clink-arg=--btf "--remap-path-prefix=$PWD=." "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates")
# So that paths may have spaces.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
what=(--locked --quiet --package oom-watcher-probe --profile probe --target "$bpf_target" --target-dir target/ebpf)
case ${1:-build} in
build) cargo build "${what[@]}" ;;
clippy) "$(dirname "$bpf_rustc")/cargo-clippy" clippy "${what[@]}" -- -D warnings; exit ;;
*) sed -n 2,3p "$0"; exit 2 ;;
esac

# cargo looks only at what the probe is made of; agent/build.rs looks at every file beside it and must not take this object for an old one.
object=target/ebpf/$bpf_target/probe/oom-watcher-probe
[ -z "$(find probe/src shared/src -newer "$object")" ] || touch "$object"
