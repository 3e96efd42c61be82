#!/usr/bin/env bash
# on_gpu.sh TEST... - `make check-gpu`: the tests of the CUDA table on this machine's GPU (with them the demonstration's 270
# cases in f32 and bf16 against the CPU's answers), then the kernels' tests under compute-sanitizer (memory, then
# shared-memory races), then, where the whole program is built ($B/jomed), the same cases by the command line against
# PyTorch's results, and the same bits over HTTP in either precision. Ends with a line that says how many steps failed.
set -u
cd "$(dirname "$0")/../.."
export B=${B:-build-gpu}
# cuBLASLt is loaded by name: from the CUDA that was compiled with, where the system's linker does not know it.
export LD_LIBRARY_PATH="third_party/lib:${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(tools/cuda_libs.sh)" CMOCKA_MESSAGE_OUTPUT=TAP JOMED_TEST_SECONDS=${JOMED_TEST_SECONDS:-900}
failed=0
step() { echo "== $1"; shift; "$@" || failed=$((failed + 1)); }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || { echo "check-gpu: nvidia-smi finds no GPU here"; exit 1; }
# The index is made on the CPU: whatever differs is the device's answers.
if [ -x "$B/jomed" ]; then
    export JOMED_DEMO_INDEX=$B/demo-index
    step "the demonstration index" "$B/jomed" index build --quiet --force --device cpu \
        --retriever models/demo/retriever --jsonl models/demo/synthetic/index.jsonl --images models/demo/synthetic --out "$JOMED_DEMO_INDEX"
fi
step "tests of the CUDA table" tests/run.sh "$@"

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
sanitized() { # tool, test
    local rc
    timeout 900 "$sanitizer" --tool "$1" --error-exitcode 99 "$2" >"$B/sanitizer.log" 2>&1; rc=$?
    grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|^not ok' "$B/sanitizer.log"
    return $rc
}
if [ -x "$sanitizer" ]; then
    for t in "$@"; do
        case $t in */test_linear|*/test_rows|*/test_attend|*/test_score|*/test_mixture|*/test_search|*/test_preprocess) ;; *) continue ;; esac
        for tool in memcheck racecheck; do step "$tool $t" sanitized $tool "$t"; done
    done
else
    echo "== compute-sanitizer is not here: SKIPPED"
fi

if [ -x "$B/jomed" ]; then
    export JOMED_DEVICE=${JOMED_DEVICE:-cuda:0}
    JOMED_PRODUCTS=f32 step "the demonstration's cases against PyTorch" tests/run.sh tests/e2e/test_demo.sh
    for p in f32 bf16; do JOMED_PRODUCTS=$p step "the same bits over HTTP in $p" tests/run.sh tests/http/test_same_bits.sh; done
else
    echo "== the program from end to end: SKIPPED, its other packages are not on this machine"
fi
[ $failed -eq 0 ] && echo "check-gpu: all steps passed" || echo "check-gpu: $failed steps failed"
[ $failed -eq 0 ]
