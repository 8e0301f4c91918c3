# shellcheck shell=bash
# Packages of Debian and single files of them, without installing one. Sourced by the rings that need some.
#
# apt gets a state of its own in the folder $apt, which who sources this names; so neither root nor a change of this machine's settings is needed.
# The functions print one path, or fail and say on standard error why, in one line: the last.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# unpack INTO MACHINE ARCHIVE SUITE REGEX VERSION PATTERN…: the only file of a package that matches one of the patterns, whole or not at all.
unpack() {
    local into=$1 deb
    deb=$(download "${@:2:5}") || return
    # tar complains about a pattern that matches nothing.
    dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards "${@:7}" >"$into.new" 2>/dev/null
    [ -s "$into.new" ] || { echo "${deb##*/} has none of ${*:7}" >&2; return 1; }
    # shellcheck disable=SC2016 # it is dpkg that puts them in
    dpkg-deb --show --showformat '${Package} ${Version}\n' "$deb" >"${into%.vmlinuz}.package"
    mv "$into.new" "$into"
    rm "$deb"
}

# download MACHINE ARCHIVE SUITE REGEX [VERSION]: the newest package of a name that matches, as a file.
download() {
    local machine=$1 archive=$2 suite=$3 state=${apt:?}/$3-$1 url name
    command -v apt-get >/dev/null || { echo "this is not Debian: there is no apt-get" >&2; return 1; }
    url=$(mirror "$archive") || return
    mkdir -p "$state"/{lists,archives}/partial && : >"$state/status"
    # The releases of long ago are not signed anew.
    echo "deb [signed-by=$keyring check-valid-until=no] $url $suite main" >"$state/sources.list"
    cat >"$state/apt.conf" <<CONF
APT::Architecture "$machine";
APT::Architectures { "$machine"; };
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
CONF
    local -x APT_CONFIG=$state/apt.conf
    apt-get -qq update >&2 || { echo "apt-get cannot update the lists of $archive $suite" >&2; return 1; }
    name=$(apt-cache pkgnames | grep -E "$4" | sort -V | tail -n 1)
    [ -n "$name" ] || { echo "no package $4 in $archive $suite for $machine" >&2; return 1; }
    (cd "$state" && rm -f ./*.deb && apt-get -qq download "$name${5:+=$5}" >&2) ||
        { echo "apt-get cannot download $name${5:+ $5} from $archive $suite" >&2; return 1; }
    echo "$state"/*.deb
}

# mirror ARCHIVE: where this machine gets it; the security updates may be beside the releases.
mirror() {
    local known main
    # shellcheck disable=SC2016 # it is apt that puts it in
    known=$(apt-get indextargets --format '$(REPO_URI)' | sort -u)
    grep -m 1 "/$1/\$" <<<"$known" && return
    main=$(grep -m 1 '/debian/$' <<<"$known") || { echo "apt knows no mirror of Debian" >&2; return 1; }
    echo "${main%/debian/}/$1/"
}

codename() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }
