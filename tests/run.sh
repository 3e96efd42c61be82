#!/usr/bin/env bash
# run.sh TEST... - run each test program or script, show what fails, and end with 'N passed, M failed, K skipped'.
# C tests are cmocka programs and print TAP; scripts print TAP lines too: "ok N - name", "not ok N - name",
# "ok N # SKIP reason". A program that dies without a summary counts as one failure.
# JOMED_RESULTS=FILE adds "passed failed skipped" to FILE instead of the last line, for suites made of several runs.
set -u
export CMOCKA_MESSAGE_OUTPUT=TAP
export JOMED_SHARED=${JOMED_SHARED:-../shared} JOMED_BUILD=${B:-build}
# A sanitizer's report is status 99, which no program of ours ends with by itself: a script that expects 1 must see the difference.
# Frames on the heap, for use after return, are off: GCC 13 does not align them for vectors of 64 bytes (its PR 110027).
export ASAN_OPTIONS=${ASAN_OPTIONS:-exitcode=99:detect_leaks=1:allocator_may_return_null=1:abort_on_error=0:detect_stack_use_after_return=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-exitcode=99:print_stacktrace=1:halt_on_error=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-exitcode=99:halt_on_error=1:suppressions=tests/tsan.supp}
out=$(mktemp); trap 'rm -f "$out"' EXIT
passed=0 failed=0 skipped=0
for t in "$@"; do
    start=$(date +%s)
    timeout --kill-after=10 "${JOMED_TEST_SECONDS:-900}" "$t" >"$out" 2>&1 </dev/null; rc=$?
    s=$(grep -ac '^\(not \)\?ok .*# SKIP' "$out"); f=$(grep -a '^not ok' "$out" | grep -avc '# SKIP'); p=$(grep -a '^ok' "$out" | grep -avc '# SKIP')
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; echo "not ok - $t ended with status $rc"; fi
    if [ $rc -eq 0 ] && [ $((s + f + p)) -eq 0 ]; then f=1; echo "not ok - $t ran no test"; fi
    plan=$(sed -n 's/^1\.\.\([0-9][0-9]*\).*/\1/p' "$out" | awk '{n += $1} END {print n + 0}')
    if [ $rc -eq 0 ] && [ "$plan" -gt $((s + f + p)) ]; then f=$((f + 1)); echo "not ok - $t said $plan tests and ran $((s + f + p - 1))"; fi
    printf '%-48s %4d passed %3d failed %3d skipped  %4d s\n' "$t" "$p" "$f" "$s" $(($(date +%s) - start))
    if [ "$f" -gt 0 ] || [ $rc -ne 0 ]; then
        { grep -a -A 6 '^not ok' "$out" | head -n 60; echo ...; tail -n 20 "$out"; } | sed 's/^/    /'
    fi
    [ "$s" -gt 0 ] && grep -a 'SKIP' "$out" | sed 's/^/    /'
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
if [ -n "${JOMED_RESULTS:-}" ]; then echo "$passed $failed $skipped" >>"$JOMED_RESULTS"
else echo "$passed passed, $failed failed, $skipped skipped"; fi
[ "$failed" -eq 0 ]
