#!/usr/bin/env bash
# compare_llama.sh ORACLE_ROOT WORK_DIR [ROUNDS] - our reader and llama.cpp on the same random Qwen2-VL-2B in bf16, turn by turn.
#   ORACLE_ROOT  a chroot made by `../shared/oracle/chroot.sh build` (Debian forky's llama.cpp and python3-gguf)
#   WORK_DIR     takes 9 GB: both models; kept, so that a second run starts at once
# A round runs each program once per thread count: 512 tokens of prefill, 32 of decode, one picture of 448 x 448 (256 vision
# tokens). Both take the same number of tokens through the same shapes; the values are noise. Prints every figure and, last,
# medians and ratios (ours / llama.cpp's; above 1 is faster).
set -eu
root=$1 work=$2 rounds=${3:-3}
here=$(cd "$(dirname "$0")/.." && pwd)
shared=${JOMED_SHARED:-$here/../shared}
B=${B:-$here/build}
enter() { (cd "$work" && sh "$shared/oracle/chroot.sh" run "$root" "$@"); }

mkdir -p "$work"
work=$(cd "$work" && pwd)
if [ ! -e "$work/lm.gguf" ]; then
    cp -r "$shared/fixtures/tokenizers/qwen2" "$work/tok"
    cp "$shared/oracle/make_random_gguf.py" "$work/"
    enter python3 make_random_gguf.py --tokenizer tok --out lm.gguf --mmproj mm.gguf --type bf16 --size 2b
fi
[ -e "$work/ours/config.json" ] || "$B/bench/make_random_checkpoint" 2b "$shared/fixtures/tokenizers/qwen2" "$work/ours"
if [ ! -e "$work/picture.png" ]; then
    enter python3 -c "
from PIL import Image
import numpy as np
Image.fromarray(np.random.default_rng(1).integers(0, 255, (448, 448, 3), dtype=np.uint8)).save('picture.png')"
fi

log=$work/log.txt
: >"$log"
note() { echo "$*" | tee -a "$log"; }
# name threads value: rates are tokens per second
llama() {
    # the last two columns of llama-bench's CSV are tokens per second and their deviation; a row of prefill, one of decode
    enter llama-bench -m lm.gguf -p 512 -n 32 -t "$1" -r 1 -o csv 2>/dev/null | tail -n 2 |
        awk -F'","' -v t="$1" '{print (NR == 1 ? "llama prefill " : "llama decode ") t " " $(NF - 1)}'
    enter sh -c "llama-mtmd-cli -m lm.gguf --mmproj mm.gguf --image picture.png -p x -n 1 -t $1 -c 2048 --temp 0 2>&1" |
        sed -n 's/.*batch encoding done in \([0-9.]*\) ms.*/\1/p' | head -n 1 |
        awk -v t="$1" '{print "llama vision " t " " 256000 / $1}'
}
ours() {
    "$B/bench/bench_reader" "$work/ours" --threads "$1" --products bf16 --tokens 512 --image 448 --decode 32 --repeats 1 --k 0 |
        awk -v t="$1" '{ms = $0; sub(/ ms median.*/, "", ms); n = split(ms, w, " ")
            if (/^prefill/) print "ours prefill " t " " 512000 / w[n]
            if (/^decode/) print "ours decode " t " " 32000 / w[n]
            if (/^vision/) print "ours vision " t " " 256000 / w[n]
            if (/^peak/) print "# " $0}'
}
for r in $(seq "$rounds"); do
    for t in 1 2; do
        note "# round $r, $t thread(s)"
        ours "$t" | tee -a "$log"
        llama "$t" | tee -a "$log"
    done
done
awk '!/^#/ {v[$2 " " $3 " " $1] = v[$2 " " $3 " " $1] " " $4}
    function median(s,  n, x, i, j, y) {n = split(s, x, " "); for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (x[j] < x[i]) {y = x[i]; x[i] = x[j]; x[j] = y}
        return n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2}
    END {printf "\n%-10s %7s %14s %14s %7s\n", "", "threads", "ours tokens/s", "llama.cpp", "ratio"
        split("prefill vision decode", k, " ")
        for (i = 1; i <= 3; i++) for (t = 1; t <= 2; t++) {a = median(v[k[i] " " t " ours"]); b = median(v[k[i] " " t " llama"])
            if (b) printf "%-10s %7d %14.1f %14.1f %7.2f\n", k[i], t, a, b, a / b}}' "$log"
