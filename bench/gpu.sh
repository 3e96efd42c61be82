#!/usr/bin/env bash
# gpu.sh [7b|2b ...] - `make bench-gpu`: each operation on the GPU against the ceilings of the same run, then whole cases of
# random models of the published sizes, in turn with PyTorch where python3 has it. One table for docs/PERF.md.
# Needs the GPU to itself, 20 GB of disk below $B for the 7B's weights, and no network. JOMED_DEVICE=cuda:1 takes another card;
# with JOMED_DEVICE=cpu and the size "tiny" it runs anywhere, which is how tests know that it works.
set -eu
cd "$(dirname "$0")/.."
B=${B:-build}
device=${JOMED_DEVICE:-cuda:0}
sizes=${*:-2b 7b}
rounds=${JOMED_ROUNDS:-3}

# cuBLAS and cuBLASLt are loaded by name: from the CUDA that was compiled with, where the system's linker does not know them.
# For our programs alone: PyTorch brings its own.
cuda_libs=$(tools/cuda_libs.sh)
ours() { LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$cuda_libs" "$@"; }

echo "== $(git describe --always --dirty 2>/dev/null || echo 'a copy without git'), $(date -u +%F)"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,memory.total,memory.used --format=csv || :
fi

echo "== operations"
tiny=; [ "$sizes" != tiny ] || tiny=--tiny
ours "$B/bench/bench_gpu" --device "$device" $tiny

torch=
if python3 -c 'import sys, torch, transformers; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then torch=1; fi
[ -n "$torch" ] || echo "== no PyTorch with CUDA and transformers here: cases are not compared with it"

# Cases of design.md, section 5: 15 answers of one token; decode and prefill by themselves.
for size in $sizes; do
    model=$B/random-$size
    if [ ! -e "$model/config.json" ]; then
        echo "== making $model"
        rm -rf "$model"
        "$B/bench/make_random_checkpoint" "$size" "${JOMED_TOKENIZER:-models/demo/reader}" "$model"
    fi
    if [ "$size" = tiny ]; then cases="28" k=2 more="--tokens 8 --image 28 --decode 2 --repeats 1"
    else cases="252 448" k=10 more="--tokens 4096 --image 448 --decode 64 --repeats 10"; fi
    for px in $cases; do
        for round in $(seq "$rounds"); do
            echo "== $size, K = $k, $px px, round $round of $rounds"
            # shellcheck disable=SC2086
            ours "$B/bench/bench_reader" "$model" --device "$device" --k $k --case-image "$px" --answers 15 $more
            echo "== the same, all products by our own kernels"
            # shellcheck disable=SC2086
            ours "$B/bench/bench_reader" "$model" --device "$device" --k $k --case-image "$px" --answers 15 $more --products own
            [ -z "$torch" ] || python3 bench/bench_torch.py "$model" --k $k --image "$px" || echo "(PyTorch failed on this case)"
        done
    done
done
