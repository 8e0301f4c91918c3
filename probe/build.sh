#!/bin/bash
# Builds the eBPF object: target/ebpf/bpfel-unknown-none/probe/oom-watcher-probe, which agent/build.rs embeds.
# Needs a compiler with a core library for bpfel-unknown-none and bpf-linker of the same LLVM: `make setup` installs Debian's.
set -euo pipefail
cd "$(dirname "$0")/.."
rustc=${OOM_WATCHER_BPF_RUSTC:-/usr/bin/rustc}
export PATH="$HOME/.cargo/bin:$PATH"
remedy="run 'make setup' on Debian 12 or later; elsewhere install a Rust compiler with libstd for bpfel-unknown-none and bpf-linker, and name the compiler in OOM_WATCHER_BPF_RUSTC"
[ -n "$("$rustc" --print target-libdir --target bpfel-unknown-none 2>/dev/null)" ] && [ -d "$("$rustc" --print target-libdir --target bpfel-unknown-none)" ] ||
    { echo "probe: $rustc has no core library for bpfel-unknown-none: $remedy" >&2; exit 1; }
command -v bpf-linker >/dev/null || { echo "probe: bpf-linker is not on the PATH: $remedy" >&2; exit 1; }
# RUSTC_BOOTSTRAP: the target is not a stable one. Separate target directory: another compiler.
RUSTC=$rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Clinker=bpf-linker -Cdebuginfo=2 -Clink-arg=--btf" \
    cargo build --locked --quiet --package oom-watcher-probe --profile probe --target bpfel-unknown-none --target-dir target/ebpf
