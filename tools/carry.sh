#!/bin/sh
# carry.sh - put what `make check-gpu` and `make bench-gpu` use of the system's packages into third_party/, where the Makefile looks
# first: so that a plain copy of the tree builds them on a GPU machine that lacks these packages and has no network.
# Headers of every package that a source file includes; libraries only of those that these two targets link (kernels, reader,
# base), static where the package has one. Some 6 MB. The machine needs make, gcc, g++ and CUDA.
set -eu
cd "$(dirname "$0")/.."

die() { echo "carry: $*" >&2; exit 1; }
command -v dpkg >/dev/null || die "this needs dpkg, to know the packages' files"

jpeg=$(dpkg -S libjpeg.a 2>/dev/null | sed -n 's/:.*//p' | head -n 1)
HEADERS="libmicrohttpd-dev libinih-dev libsqlite3-dev libzip-dev libfaiss-dev"
LIBRARIES="libjansson-dev libutf8proc-dev libpcre2-dev ${jpeg:-libjpeg-dev} libpng-dev zlib1g-dev nettle-dev"

mkdir -p third_party/include third_party/lib
files() { dpkg -L "$1" 2>/dev/null || die "$1 is not installed here: make deps"; }

# /usr/include/x86_64-linux-gnu/jconfig.h and /usr/include/nettle/sha2.h go to include/jconfig.h and include/nettle/sha2.h.
for p in $HEADERS $LIBRARIES libcmocka-dev; do
    files "$p" | grep '^/usr/include/.*\.h$' | while read -r f; do
        case $p in libfaiss-dev) case $f in */c_api/*) ;; *) continue ;; esac ;; esac
        to=third_party/include/$(echo "${f#/usr/include/}" | sed 's|^[^/]*-linux-gnu/||')
        mkdir -p "$(dirname "$to")"
        cp "$f" "$to"
    done
done
for p in $LIBRARIES; do
    for f in $(files "$p" | grep '\.a$' | grep -v 'pcre2-\(16\|32\|posix\)\|hogweed\|turbojpeg'); do cp -L "$f" third_party/lib/; done
done
# cmocka has a shared library alone: tests find it through LD_LIBRARY_PATH.
for f in $(dpkg -L libcmocka-dev libcmocka0 | grep '/libcmocka\.so'); do cp -P "$f" third_party/lib/; done
touch third_party/carried
du -sh third_party
