#!/usr/bin/env bash
# test_demo.sh - the demonstration model over every case that PyTorch answered (models/demo/eval.safetensors): the index is
# built, the data sets are run, all that comes out is compared. Then: the same bits however it is run.
# The real sets need ../shared/data/medmnist, which is not ours to ship; without it they are skipped.
set -u
jomed=$JOMED_BUILD/jomed compare=$JOMED_BUILD/tests/e2e/compare demo=models/demo
medmnist=$JOMED_SHARED/data/medmnist
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
status=0
not_ok() { echo "not ok - $1"; status=1; [ ! -s "$dir/err" ] || sed 's/^/# /' "$dir/err"; }
ok() { if [ "$1" -eq 0 ]; then echo "ok - $2"; else not_ok "$2"; fi; }

# on a GPU: tests/cuda/on_gpu.sh
models="--reader $demo/reader --retriever $demo/retriever ${JOMED_DEVICE:+--device $JOMED_DEVICE}"
models="$models ${JOMED_PRODUCTS:+--products $JOMED_PRODUCTS}"
run() { # index, predictions, summary, arguments...
    local index=$1 predictions=$2 summary=$3; shift 3
    "$jomed" eval $models --index "$index" --json --predictions "$predictions" "$@" >"$summary" 2>"$dir/err"
}
against() { # key of the goldens, mode, index, arguments...: run and compare
    local key=$1 mode=$2 index=$3; shift 3
    if run "$index" "$dir/p" "$dir/s" --mode "$mode" "$@"; then "$compare" $demo "$key" "$mode" "$dir/p" "$dir/s" || status=1
    else not_ok "$key $mode does not run"; fi
}
synthetic() { echo "--jsonl $demo/synthetic/$1.jsonl --images $demo/synthetic"; }

index=${JOMED_DEMO_INDEX:-}
if [ ! -f "$index/manifest.json" ]; then
    index=$dir/index
    "$jomed" index build --retriever $demo/retriever --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --out "$index" 2>"$dir/err"
    ok $? "the synthetic index is not built"
fi

for task in breast pneumonia retina; do
    for split in val test; do against synthetic/${task}mnist/$split paper "$index" $(synthetic ${task}_$split); done
    against synthetic/${task}mnist/val reference "$index" $(synthetic ${task}_val)
done
# The comparison itself must be able to fail: these are probabilities of the other mode.
"$compare" $demo synthetic/retinamnist/val paper "$dir/p" "$dir/s" | grep -q '^not ok .*fused probabilities differ'
ok $? "the comparison takes one mode's probabilities for the other's"

# ---- the same bits ----
set="$(synthetic retina_val)"
run "$index" "$dir/p1" "$dir/s1" --workers 1 $set
same() { cmp -s "$dir/p1" "$2"; ok $? "$1"; }
run "$index" "$dir/p2" "$dir/s2" --workers 1 $set; same "a second run gives other bits" "$dir/p2"
run "$index" "$dir/p2" "$dir/s2" --workers 2 $set; same "two workers give other bits than one" "$dir/p2"
run "$index" "$dir/p2" "$dir/s2" --workers 1 --threads 2 $set; same "two threads give other bits than one" "$dir/p2"
run "$index" "$dir/p2" "$dir/s2" --workers 1 --cache-mb 0 $set; same "a run without cached prefixes gives other bits" "$dir/p2"
run "$index" "$dir/p2" "$dir/s2" --workers 1 --limit 7 $set
head -n 7 "$dir/p1" >"$dir/first"; cmp -s "$dir/first" "$dir/p2"; ok $? "--limit gives other bits"
tac $demo/synthetic/retina_val.jsonl >"$dir/backwards.jsonl"
run "$index" "$dir/p2" "$dir/s2" --jsonl "$dir/backwards.jsonl" --images $demo/synthetic
cut -d, -f2- "$dir/p1" >"$dir/a"; tac "$dir/p2" | cut -d, -f2- >"$dir/b"
cmp -s "$dir/a" "$dir/b"; ok $? "cases in another order give other bits"
# What is not time or work must not differ either.
numbers() { grep -o '"\(accuracy\|macro_f1\|oracle\|token_recall\|candidate_accuracy\)\(_ci\)\?":[^"]*' "$1"; }
run "$index" "$dir/p2" "$dir/s2" --workers 2 $set
[ "$(numbers "$dir/s1")" = "$(numbers "$dir/s2")" ] && [ -n "$(numbers "$dir/s1")" ]; ok $? "two workers report other numbers than one"

# ---- real pictures ----
if [ -d "$medmnist" ]; then
    "$jomed" index build --retriever $demo/retriever --jsonl $demo/real/index.jsonl --images "$medmnist" --out "$dir/real" 2>"$dir/err" >"$dir/out"
    ok $? "the index of real pictures is not built"
    real() { # task, split, archive, mode
        against real/$1/$2 $4 "$dir/real" --medmnist "$medmnist/$3.npz" --split $2 --task $demo/tasks/$1.json
    }
    real breastmnist val breastmnist_trainval paper
    real breastmnist val breastmnist_trainval reference
    real pneumoniamnist val pneumoniamnist_trainval paper
    real retinamnist val retinamnist paper
    real retinamnist test retinamnist paper
else
    echo "ok - real MedMNIST cases # SKIP no $medmnist: the pictures are not ours to ship"
fi
exit $status
