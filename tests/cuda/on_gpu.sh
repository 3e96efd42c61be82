#!/usr/bin/env bash
# on_gpu.sh TEST... - `make check-gpu`: the tests of the CUDA table on this machine's GPU, then the kernels' tests under
# compute-sanitizer (memory, then shared-memory races), then, where the whole program can be built, the demonstration model's
# cases on the GPU. Ends with a line that says what was run and what failed.
set -u
cd "$(dirname "$0")/../.."
B=${B:-build-gpu}
export LD_LIBRARY_PATH="third_party/lib:${LD_LIBRARY_PATH:-}" CMOCKA_MESSAGE_OUTPUT=TAP JOMED_TEST_SECONDS=${JOMED_TEST_SECONDS:-900}
failed=0
step() { echo "== $1"; shift; "$@" || failed=$((failed + 1)); }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || { echo "check-gpu: nvidia-smi finds no GPU here"; exit 1; }
step "tests of the CUDA table" tests/run.sh "$@"

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
    for t in "$@"; do
        case $t in */test_linear|*/test_rows|*/test_attend|*/test_score|*/test_search|*/test_preprocess) ;; *) continue ;; esac
        for tool in memcheck racecheck; do
            step "$tool $t" timeout 900 "$sanitizer" --tool $tool --error-exitcode 99 "$t" >"$B/sanitizer.log" 2>&1
            grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|^not ok' "$B/sanitizer.log"
        done
    done
else
    echo "== compute-sanitizer is not here: SKIPPED"
fi

if [ -e third_party/carried ]; then
    echo "== the demonstration model over the whole path: SKIPPED, the program's other packages are not on this machine"
else
    step "building the program" make --no-print-directory GPU=1 B="$B" "$B/jomed" "$B/tests/e2e/compare"
    step "the demonstration model on the GPU" env JOMED_BUILD="$B" JOMED_SHARED="${JOMED_SHARED:-../shared}" JOMED_DEVICE=cuda:0 tests/e2e/test_demo.sh
fi
[ $failed -eq 0 ] && echo "check-gpu: all steps passed" || echo "check-gpu: $failed steps failed"
[ $failed -eq 0 ]
