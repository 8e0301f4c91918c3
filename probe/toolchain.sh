# shellcheck shell=bash
# Which compiler and linker build the probe. Read by probe/build.sh and .ci/setup; defines, installs nothing.

export PATH="$PATH:$HOME/.cargo/bin"
bpf_target=bpfel-unknown-none
bpf_rustc=${OOM_WATCHER_BPF_RUSTC:-/usr/bin/rustc}
bpf_linker_version=0.13.0

# Whether the compiler has a core library for eBPF. `--print` names the folder even if it does not exist.
bpf_rustc_works() {
    local folder
    folder=$("$bpf_rustc" --print target-libdir --target "$bpf_target" 2>/dev/null) && compgen -G "$folder/libcore-*.rlib" >/dev/null
}

# The compiler's LLVM, its major version: the linker must read the bitcode of the same one.
bpf_llvm() { "$bpf_rustc" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p'; }

# Where .ci/setup puts the linker that it builds: outside of the tree, once per user and version.
bpf_linker_root() { echo "${XDG_CACHE_HOME:-$HOME/.cache}/oom-watcher/bpf-linker-$bpf_linker_version-llvm-$1"; }

# Prints the linker for LLVM $1: ours, or one on the PATH that is the same. Fails if there is none.
bpf_linker() {
    local linker
    linker=$(bpf_linker_root "$1")/bin/bpf-linker
    [ -x "$linker" ] && { echo "$linker"; return; }
    linker=$(command -v bpf-linker) && [ "$("$linker" --version)" = "bpf-linker $bpf_linker_version" ] &&
        ldd "$linker" | grep -q "libLLVM.*[.-]$1\b" && echo "$linker"
}
