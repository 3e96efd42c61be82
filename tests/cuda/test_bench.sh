#!/usr/bin/env bash
# test_bench.sh - the GPU's benchmark runs: in the emulation where the Makefile built it, else on the CPU, at sizes that mean
# nothing. Fails when a row is missing, has no number, or a command of bench/gpu.sh does not work.
set -u
B=${JOMED_BUILD:-build}
device=cpu; [ ! -x "$B/simt/bench/bench_gpu" ] || { B=$B/simt; device=cuda:0; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
status=0
ok() { if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; sed 's/^/# /' "$dir/out"; status=1; fi; }

if [ ! -x "$B/bench/bench_gpu" ]; then
    echo "ok 1 # SKIP bench_gpu is not built (make check-simt builds it)"
    exit 0
fi
mkdir "$dir/bench"
for p in bench_gpu bench_reader make_random_checkpoint; do ln -s "$(realpath "$B/bench/$p")" "$dir/bench/$p"; done
B=$dir JOMED_DEVICE=$device JOMED_ROUNDS=1 JOMED_TOKENIZER=tests/fixtures/qwen2vl-tiny bench/gpu.sh tiny >"$dir/out" 2>&1
ok $? "bench/gpu.sh ends with an error on $device"
rows=$(grep -c ' us .* GB/s ' "$dir/out")
[ "$rows" -ge 13 ]; ok $? "operations: $rows rows, not 13"
! grep -q 'nan\|inf ' "$dir/out"; ok $? "a row has no number"
cases=$(grep -c '^case K=2 .* cases/s' "$dir/out")
[ "$cases" -eq 4 ]; ok $? "cases: $cases rows, not one cold and one warm of each kind of products"
own=$(grep -c '^  by our own kernel .* us ' "$dir/out")
[ "$own" -ge 3 ]; ok $? "products by our own kernel: $own rows, not 3"
[ "$device" = cpu ] || { grep -q '^cuda:0' "$dir/out"; ok $? "the operations did not run on the emulated device"; }
exit $status
