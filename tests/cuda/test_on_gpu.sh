#!/usr/bin/env bash
# test_on_gpu.sh - what `make check-gpu` runs on a GPU machine, here with an nvidia-smi and a compute-sanitizer that do
# nothing: fails when a failing test, a sanitizer's report or a machine without a GPU would end it with status 0, or a step
# is left out.
set -u
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
status=0
is() { if [ "$1" = "$2" ]; then echo "ok - $3"; else echo "not ok - $3 (got '$1', wanted '$2')"; tail -n 30 "$dir/out" | sed 's/^/# /'; status=1; fi; }
fake() { printf '#!/bin/sh\n%s\n' "$2" >"$dir/$1"; chmod +x "$dir/$1"; }
on_gpu() { # tests...: prints the exit status and the last line
    env -u JOMED_DEVICE -u JOMED_RESULTS B="$dir" PATH="$dir:$PATH" JOMED_SHARED="$dir/none" tests/cuda/on_gpu.sh "$@" >"$dir/out" 2>&1
    echo "$? $(tail -n 1 "$dir/out")"
}
fake test_rows 'echo "ok 1 - a test"'
fake test_lost 'echo "not ok 1 - a test"; exit 1'
fake nvidia-smi 'echo a GPU'
fake compute-sanitizer "echo \"\$2 \$5\" >>$dir/tools"
is "$(on_gpu "$dir/test_rows")" "0 check-gpu: all steps passed" "tests that pass"
is "$(tr '\n' ' ' <"$dir/tools")" "memcheck $dir/test_rows racecheck $dir/test_rows " "a kernel's test runs under both tools"
is "$(grep -c 'SKIPPED' "$dir/out")" 1 "without the program its steps are skipped, and it says so"
is "$(on_gpu "$dir/test_rows" "$dir/test_lost")" "1 check-gpu: 1 steps failed" "a test that fails"
fake compute-sanitizer 'exit 99'
is "$(on_gpu "$dir/test_rows")" "1 check-gpu: 2 steps failed" "a sanitizer's report"
# a program that can do nothing: its index, its cases and two precisions of HTTP
fake compute-sanitizer 'exit 0'
fake jomed "echo \"\$*\" >>$dir/asked; exit 1"
is "$(JOMED_SAME_BITS_TIMES=1 on_gpu "$dir/test_rows")" "1 check-gpu: 4 steps failed" "a program that fails"
is "$(head -n 1 "$dir/asked" | grep -o '^index build\|--device [a-z]*' | tr '\n' ' ')" "index build --device cpu " "the index is made on the CPU"
is "$(grep -o -- '^eval .*--device cuda:0 --products [a-z0-9]*' "$dir/asked" | sed 's/.* //' | sort -u)" f32 "its cases are asked on the GPU"
is "$(grep -o -- '^serve .*--device cuda:0 --products [a-z0-9]*' "$dir/asked" | sed 's/.* //' | sort -u | tr '\n' ' ')" "bf16 f32 " "it serves in both precisions"
fake nvidia-smi 'exit 1'
is "$(on_gpu "$dir/test_rows")" "1 check-gpu: nvidia-smi finds no GPU here" "no GPU"
exit $status
