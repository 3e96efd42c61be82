#!/usr/bin/env bash
# all.sh - `make test`: the suite as it ships, then unit, golden and HTTP tests under AddressSanitizer + UBSan, then the
# server's under ThreadSanitizer. Ends with 'N passed, M failed, K skipped' over all three.
set -u
cd "$(dirname "$0")/.."
jobs=$(nproc)
werror=${CI:+-Werror} # warnings are errors in CI; a user's newer compiler may warn of more
JOMED_RESULTS=$(mktemp); export JOMED_RESULTS
trap 'rm -f "$JOMED_RESULTS"' EXIT
status=0
flavour() { # name, make arguments...
    echo "== $1"; shift
    before=$(wc -l <"$JOMED_RESULTS")
    make --no-print-directory -j"$jobs" "$@" && return
    status=1
    [ "$(wc -l <"$JOMED_RESULTS")" -gt "$before" ] || echo "0 1 0" >>"$JOMED_RESULTS" # did not build: that is a failure too
}
flavour "as shipped" B=build WERROR="$werror" check
flavour "AddressSanitizer + UndefinedBehaviorSanitizer" B=build-asan GPU=0 OPT="-O1 -g" \
    SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" check-sanitized
flavour "ThreadSanitizer" B=build-tsan GPU=0 OPT="-O1 -g" SAN="-fsanitize=thread" check-threads
awk '{p += $1; f += $2; k += $3} END {printf "%d passed, %d failed, %d skipped\n", p, f, k; exit f > 0}' "$JOMED_RESULTS" || status=1
exit $status
