#!/bin/sh
# deps.sh [fuzz] - install what building and testing jomed needs; `make deps`. Does nothing, quickly, when all is there.
# For Debian 12 and 13, Ubuntu 22.04 and 24.04; needs root only while packages are missing. `fuzz` adds clang with libFuzzer.
#
# FAISS's C interface is part of libfaiss-dev from Debian 13 on. Where the installed version has no libfaiss_c.a (Debian 12,
# Ubuntu 22.04), the interface is compiled here from the distribution's own source package of exactly that version. Ubuntu
# 24.04 has no FAISS at all: there library and interface are built from the source package of the long-term release before it
# (a quarter of an hour on two cores, once). Both go into third_party. The source comes through apt, which checks its signature
# and checksums, with a private sources list and private folders: the system's configuration is read, not changed.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="gcc g++ make libc6-dev dpkg-dev ca-certificates curl wrk groff-base
 libmicrohttpd-dev libgnutls28-dev nettle-dev libinih-dev libjansson-dev libsqlite3-dev libzip-dev libjpeg-dev libpng-dev zlib1g-dev
 libpcre2-dev libutf8proc-dev libopenblas-dev libcmocka-dev"
[ "${1:-}" != fuzz ] || PACKAGES="$PACKAGES clang"

die() { echo "deps: $*" >&2; exit 1; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# The suite whose FAISS source is built whole; empty: this system has a package of its own.
faiss_suite=$(. /etc/os-release 2>/dev/null; [ "${VERSION_CODENAME:-}" != noble ] || echo jammy)
if [ -n "$faiss_suite" ]; then PACKAGES="$PACKAGES cmake"; else PACKAGES="$PACKAGES libfaiss-dev"; fi

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "this system has no apt. Install by hand what these Debian packages hold, and FAISS's C interface (libfaiss_c):
$PACKAGES"

# One at a time: two checkouts, or two targets of one make, may ask at once. third_party belongs to this checkout,
# apt has its own lock.
mkdir -p third_party
exec 9>third_party/.lock
flock 9

# What dpkg has, in one question: "ii NAME". libjpeg-dev and its like may be virtual names, so what provides one counts too.
status=$(dpkg-query -W -f "\${db:Status-Abbrev}\${Package}\n" $PACKAGES 2>/dev/null) || :
missing=
for p in $PACKAGES; do
    case "
$status
" in
    *"
ii $p
"*) ;;
    *) dpkg-query -W -f "\${db:Status-Abbrev}\${Provides},\n" 2>/dev/null | grep -q "^ii .*\b$p[ ,(]" || missing="$missing $p" ;;
    esac
done

if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || die "these packages are missing; run 'sudo make deps', or install them:$missing"
    echo "deps: installing$missing"
    apt update || die "apt-get update failed"
    for p in $missing; do
        apt-cache show "$p" >/dev/null 2>&1 || die "apt knows no package $p. On Ubuntu, enable the 'universe' component"
    done
    recommends=--no-install-recommends
    [ "${1:-}" != fuzz ] || recommends=--install-recommends # libFuzzer's runtime is one of clang's
    # shellcheck disable=SC2086
    apt install -y $recommends $missing || die "apt-get install failed"
fi

# Is third_party what it should be? Its version file is written last.
have=$(cat third_party/lib/libfaiss_c.version 2>/dev/null) || :
if [ -n "$faiss_suite" ]; then
    case $have in *" whole, $faiss_suite") exit 0 ;; esac
    binary=cmake like="a package of universe"
else
    version=$(dpkg-query -W -f '${source:Version}' libfaiss-dev)
    if dpkg-query -L libfaiss-dev | grep -q '/libfaiss_c\.\(a\|so\)$'; then
        rm -f third_party/lib/libfaiss_c.a third_party/lib/libfaiss_c.version
        exit 0
    fi
    [ "$have" != "$version" ] || exit 0
    binary=libfaiss-dev like="libfaiss-dev $version"
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/src" "$tmp/obj" "$tmp/faiss"
chmod 755 "$tmp" # apt downloads as its own user
[ "$(id -u)" != 0 ] || ! id _apt >/dev/null 2>&1 || chown _apt "$tmp/src"

# Where an installed package came from: apt-cache names it by the description of an index file, apt-get indextargets says what
# stands behind that description.
find_target() {
    v=$(dpkg-query -W -f '${Version}' "$binary")
    from=$(apt-cache madison "$binary" | awk -F ' *[|] *' -v v="$v" '$2 == v && $3 ~ / Packages$/ { print $3; exit }')
    [ -n "$from" ] || return 0
    apt-get indextargets --format '$(DESCRIPTION)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)' 'Created-By: Packages' |
        awk -F '|' -v d="$from" '$1 == d { print; exit }'
}
target=$(find_target)
if [ -z "$target" ] && [ "$(id -u)" = 0 ]; then # the lists may have been removed to save space
    apt update && target=$(find_target)
fi
[ -n "$target" ] || die "apt does not know where $like came from; run apt-get update"
old_ifs=$IFS; IFS='|'
# shellcheck disable=SC2086
set -- $target
IFS=$old_ifs
uri=$2 suite=${faiss_suite:-$3} component=$4 signed=${5:-}
[ -z "$faiss_suite" ] || component=universe
case $signed in /*) signed="[signed-by=$signed] " ;; *) signed= ;; esac
echo "deb-src $signed$uri $suite $component" >"$tmp/sources.list"

source_apt() {
    apt -o Dir::Etc::sourcelist="$tmp/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$tmp/lists" -o Dir::Cache="$tmp/cache" "$@"
}
source_apt update || die "the source index of $suite/$component cannot be read"
(cd "$tmp/src" && source_apt --download-only --tar-only source "faiss${version:+=$version}") || die "the source package of faiss cannot be fetched"
# Upstream's archive alone: the distribution's patches are to the build, not to what is built.
tar -xf "$tmp"/src/faiss_*.orig.tar.* -C "$tmp/faiss" --strip-components=1 || die "the source archive cannot be unpacked"

# Library and interface, as FAISS's own build makes them.
build_whole() {
    version="$(basename "$tmp"/src/faiss_*.orig.tar.* | sed 's/^faiss_\(.*\)\.orig.*/\1/') whole, $faiss_suite"
    echo "deps: building FAISS $version: a quarter of an hour on two cores, once"
    rm -rf third_party/include third_party/lib
    cmake -S "$tmp/faiss" -B "$tmp/obj" -DCMAKE_BUILD_TYPE=Release -DFAISS_ENABLE_GPU=OFF -DFAISS_ENABLE_PYTHON=OFF \
        -DFAISS_ENABLE_EXTRAS=OFF -DFAISS_ENABLE_C_API=ON -DBUILD_TESTING=OFF -DFAISS_OPT_LEVEL=generic -DCMAKE_CXX_FLAGS="-include cstdint" -DBLA_VENDOR=OpenBLAS \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON >"$tmp/log" 2>&1 &&
        cmake --build "$tmp/obj" --parallel "$(nproc)" --target faiss faiss_c >>"$tmp/log" 2>&1 ||
        { tail -n 30 "$tmp/log" >&2; die "FAISS does not build"; }
    mkdir -p third_party/lib third_party/include
    cp "$(find "$tmp/obj" -name libfaiss.a)" "$(find "$tmp/obj" -name libfaiss_c.a)" third_party/lib/
    (cd "$tmp/faiss" && find faiss c_api -name '*.h' -not -path '*/gpu/*') |
        while read -r h; do
            case $h in c_api/*) to=faiss/$h ;; *) to=$h ;; esac
            install -D -m 644 "$tmp/faiss/$h" "third_party/include/$to"
        done
}

# The interface alone, against the installed library.
build_interface() {
    echo "deps: building FAISS's C interface $version"
    for f in "$tmp"/faiss/c_api/*.cpp "$tmp"/faiss/c_api/utils/*.cpp "$tmp"/faiss/c_api/impl/*.cpp; do
        case $f in *'*'*) continue ;; esac # no such folder in this version
        g++ -std=c++17 -O2 -DNDEBUG -DFINTEGER=int -fPIC -fopenmp -I/usr/include -I"$tmp/faiss/c_api" -c "$f" \
            -o "$tmp/obj/$(basename "$f" .cpp).o" || die "$(basename "$f") does not compile against the installed FAISS headers"
    done
    mkdir -p third_party/lib
    [ -e /usr/include/faiss/c_api/faiss_c.h ] || { # headers that the package leaves out
        mkdir -p third_party/include/faiss/c_api
        (cd "$tmp/faiss/c_api" && find . -name '*.h' -not -path './gpu/*') |
            while read -r h; do install -D -m 644 "$tmp/faiss/c_api/$h" "third_party/include/faiss/c_api/$h"; done
    }
    ar rcs "$tmp/libfaiss_c.a" "$tmp"/obj/*.o
    cp "$tmp/libfaiss_c.a" third_party/lib/libfaiss_c.a.new
    mv third_party/lib/libfaiss_c.a.new third_party/lib/libfaiss_c.a # whole or not at all
}

if [ -n "$faiss_suite" ]; then build_whole; else build_interface; fi
echo "$version" >third_party/lib/libfaiss_c.version
echo "deps: third_party/lib/libfaiss_c.a is ready"
