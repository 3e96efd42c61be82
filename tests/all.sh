#!/usr/bin/env bash
# all.sh - `make test`: the suite as it ships, then unit, golden and HTTP tests under AddressSanitizer + UBSan, and the server's
# under ThreadSanitizer. Ends with 'N passed, M failed, K skipped' over all three.
# A test is mostly one thread, so two lanes run side by side: as shipped, and beside it the sanitizers, whose output follows when
# they are done.
set -u
cd "$(dirname "$0")/.."
jobs=$(nproc)
werror=${CI:+-Werror} # warnings are errors in CI; a user's newer compiler may warn of more
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; exit 1' HUP INT TERM
flavour() { # results file, name, make arguments...
    results=$out/$1
    echo "== $2"; shift 2
    : >"$results"
    JOMED_RESULTS=$results make --no-print-directory -j"$jobs" "$@" && return
    [ -s "$results" ] || echo "0 1 0" >"$results" # did not build: that is a failure too
    return 1
}
status=0
# The programs first, alone: both sides use the demonstration index that build/jomed makes.
make --no-print-directory -j"$jobs" B=build WERROR="$werror" check-programs || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
sanitizers() {
    flavour asan "AddressSanitizer + UndefinedBehaviorSanitizer" B=build-asan GPU=0 OPT="-O1 -g" \
        SAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" check-sanitized
    asan=$?
    flavour tsan "ThreadSanitizer" B=build-tsan GPU=0 OPT="-O1 -g" SAN="-fsanitize=thread" check-threads && return $asan
}
sanitizers >"$out/sanitizers.log" 2>&1 &
beside=$!
flavour shipped "as shipped" B=build WERROR="$werror" check || status=1
wait $beside || status=1
cat "$out/sanitizers.log"
awk '{p += $1; f += $2; k += $3} END {printf "%d passed, %d failed, %d skipped\n", p, f, k; exit f > 0}' "$out/shipped" "$out/asan" "$out/tsan" || status=1
exit $status
