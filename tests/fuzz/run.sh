#!/usr/bin/env bash
# run.sh NAME... - run libFuzzer on each target for FUZZ_SECONDS (60); `make fuzz` builds them and calls this.
# New inputs stay in $JOMED_BUILD/corpus/NAME; what crashes is kept as $JOMED_BUILD/crash-NAME-*: mend the fault, then put the
# file into tests/corpus/NAME, where every later `make test` replays it.
set -u
cd "$(dirname "$0")/../.."
B=${JOMED_BUILD:-build-fuzz} failed=0
# A small quarantine: freed memory is of no interest for longer than an input lasts, and always touching fresh pages took half
# of the time.
export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1:quarantine_size_mb=16}
for name in "$@"; do
    mkdir -p "$B/corpus/$name"
    dict=tests/fuzz/$name.dict
    echo "== $name, ${FUZZ_SECONDS:-60} s"
    log=$B/fuzz-$name.log
    "$B/fuzz/fuzz_$name" -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=2048 -timeout=10 -max_len="${FUZZ_MAX_LEN:-65536}" \
        -print_final_stats=1 -artifact_prefix="$B/crash-$name-" $([ -e "$dict" ] && echo "-dict=$dict") \
        "$B/corpus/$name" "tests/corpus/$name" >"$log" 2>&1 || { failed=1; echo "FAILED, $log:"; }
    grep -a 'ERROR\|SUMMARY\|runtime error\|DONE\|number_of_executed_units\|average_exec_per_sec\|peak_rss_mb\|Test unit written' "$log"
done
exit $failed
