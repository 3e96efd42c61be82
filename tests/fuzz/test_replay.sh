#!/usr/bin/env bash
# test_replay.sh - each fuzz target takes every file of its corpus; prints TAP. Needs $(B)/fuzz/replay_NAME (Makefile).
set -u
cd "$(dirname "$0")/../.."
targets=(tests/fuzz/fuzz_*.c)
echo "1..${#targets[@]}"
n=0
log=$(mktemp); trap 'rm -f "$log"' EXIT
for t in "${targets[@]}"; do
    n=$((n + 1)) name=${t##*/fuzz_} name=${name%.c}
    if "${JOMED_BUILD:-build}/fuzz/replay_$name" "tests/corpus/$name" >"$log" 2>&1; then
        echo "ok $n - replay of tests/corpus/$name: $(tail -n 1 "$log")"
    else
        echo "not ok $n - replay of tests/corpus/$name: status $?"
        tail -n 40 "$log" | sed 's/^/# /'
    fi
done
