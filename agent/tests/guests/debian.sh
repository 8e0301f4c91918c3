# shellcheck shell=bash
# What the guests need of Debian, without installing it: kernels, a static busybox, and for another machine Rust's standard library. Sourced by `run`.
#
# All of it lands in $cache, once. The functions print one path, or fail and say on standard error why, in one line.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/oom-watcher/kernels
apt=$cache/apt
# shellcheck source=agent/testkit/debian.sh
. "${BASH_SOURCE[0]%/*}/../../testkit/debian.sh"

# kernel NAME MACHINE ARCHIVE SUITE REGEX: a kernel image. What it was taken from stands beside it, in NAME.package.
kernel() {
    local image=$cache/$1.vmlinuz
    # Up to 6.18 in /boot of linux-image-*, later below /usr/lib/modules of linux-binary-*.
    [ -s "$image" ] || unpack "$image" "$2" "$3" "$4" "$5" '' './boot/vmlinuz-*' './usr/lib/modules/*/vmlinuz' || return
    echo "$image"
}

# shell MACHINE: a static busybox.
shell() {
    local binary=$cache/busybox-$1
    [ -s "$binary" ] || unpack "$binary" "$1" debian "$(codename)" '^busybox-static$' '' './bin/busybox' './usr/bin/busybox' && chmod +x "$binary" || return
    echo "$binary"
}

# rust_sysroot MACHINE TARGET: what `rustc --sysroot` takes, with the standard library of that target. It must be of the very build of the compiler.
rust_sysroot() {
    local version root suite deb=
    # shellcheck disable=SC2016 # it is dpkg that puts it in
    version=$(dpkg-query --show --showformat '${Version}' rustc-web 2>/dev/null) ||
        { echo "no standard library for $2: the compiler is not Debian's rustc-web" >&2; return 1; }
    root=$cache/rust-$version-$1
    if [ ! -d "$root" ]; then
        for suite in "debian-security $(codename)-security" "debian $(codename)"; do
            deb=$(download "$1" "${suite% *}" "${suite#* }" '^libstd-rust-web-dev$' "$version" 2>/dev/null) && break
        done
        [ -n "$deb" ] || { echo "no libstd-rust-web-dev:$1 of version $version, that of the rustc-web that is installed: upgrade it" >&2; return 1; }
        rm -rf "$root.new" && dpkg-deb -x "$deb" "$root.new" && mv "$root.new" "$root" || return
        rm "$deb"
    fi
    echo "$root/usr"
}
