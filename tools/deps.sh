#!/bin/sh
# deps.sh [fuzz] - install what building and testing jomed needs; `make deps`. Does nothing, quickly, when all is there.
# For Debian 12 and 13, Ubuntu 22.04 and 24.04; needs root only while packages are missing. `fuzz` adds clang with libFuzzer.
#
# FAISS's C interface is part of libfaiss-dev from Debian 13 on. Where the installed version has no libfaiss_c.a (Debian 12,
# Ubuntu), the interface is compiled here from the distribution's own source package of exactly that version, into
# third_party/lib. The source comes through apt, which checks its signature and checksums, with a private sources list and
# private folders: the system's configuration is read, not changed.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="gcc g++ make libc6-dev dpkg-dev ca-certificates curl wrk
 libmicrohttpd-dev libgnutls28-dev nettle-dev libinih-dev libjansson-dev libsqlite3-dev libzip-dev libjpeg-dev libpng-dev
 libpcre2-dev libutf8proc-dev libfaiss-dev libopenblas-dev libcmocka-dev"
[ "${1:-}" != fuzz ] || PACKAGES="$PACKAGES clang"

die() { echo "deps: $*" >&2; exit 1; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

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
        apt-cache show "$p" >/dev/null 2>&1 || die "apt knows no package $p. On Ubuntu, enable the 'universe' component; Ubuntu 24.04 has no FAISS at all"
    done
    recommends=--no-install-recommends
    [ "${1:-}" != fuzz ] || recommends=--install-recommends # libFuzzer's runtime is one of clang's
    # shellcheck disable=SC2086
    apt install -y $recommends $missing || die "apt-get install failed"
fi

# FAISS's C interface: the distribution's, or ours of the same version.
version=$(dpkg-query -W -f '${source:Version}' libfaiss-dev)
if dpkg-query -L libfaiss-dev | grep -q '/libfaiss_c\.\(a\|so\)$'; then
    rm -f third_party/lib/libfaiss_c.a third_party/lib/libfaiss_c.version
    exit 0
fi
if [ -e third_party/lib/libfaiss_c.a ] && [ "$(cat third_party/lib/libfaiss_c.version 2>/dev/null)" = "$version" ]; then
    exit 0
fi

echo "deps: building FAISS's C interface $version"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/src" "$tmp/obj"
chmod 755 "$tmp" # apt downloads as its own user
[ "$(id -u)" != 0 ] || ! id _apt >/dev/null 2>&1 || chown _apt "$tmp/src"

# Where the installed libfaiss-dev came from: apt-cache names it by the description of an index file, apt-get indextargets says
# what stands behind that description.
find_target() {
    binary=$(dpkg-query -W -f '${Version}' libfaiss-dev)
    from=$(apt-cache madison libfaiss-dev | awk -F ' *[|] *' -v v="$binary" '$2 == v && $3 ~ / Packages$/ { print $3; exit }')
    [ -n "$from" ] || return 0
    apt-get indextargets --format '$(DESCRIPTION)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)' 'Created-By: Packages' |
        awk -F '|' -v d="$from" '$1 == d { print; exit }'
}
target=$(find_target)
if [ -z "$target" ] && [ "$(id -u)" = 0 ]; then # the lists may have been removed to save space
    apt update && target=$(find_target)
fi
[ -n "$target" ] || die "apt does not know where libfaiss-dev $version came from; run apt-get update"
old_ifs=$IFS; IFS='|'
# shellcheck disable=SC2086
set -- $target
IFS=$old_ifs
signed=${5:-}
case $signed in /*) signed="[signed-by=$signed] " ;; *) signed= ;; esac
echo "deb-src $signed$2 $3 $4" >"$tmp/sources.list"

source_apt() {
    apt -o Dir::Etc::sourcelist="$tmp/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$tmp/lists" -o Dir::Cache="$tmp/cache" "$@"
}
source_apt update || die "the source index of $3/$4 cannot be read"
(cd "$tmp/src" && source_apt --download-only --tar-only source "faiss=$version") || die "the source package faiss $version cannot be fetched"
# Upstream's archive alone: the distribution's patches are to the build, not to c_api.
mkdir "$tmp/faiss"
tar -xf "$tmp"/src/faiss_*.orig.tar.* -C "$tmp/faiss" --strip-components=1 || die "the source archive cannot be unpacked"

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
echo "$version" >third_party/lib/libfaiss_c.version
echo "deps: third_party/lib/libfaiss_c.a is ready"
