#!/usr/bin/env bash
# test_cli.sh - `jomed index` with the demonstration retriever: builds, is interrupted and goes on, info, verify, exit statuses. TAP.
set -u
cd "$(dirname "$0")/../.."
jomed=${JOMED_BUILD:-build}/jomed
[ -x "$jomed" ] || { echo "1..1"; echo "ok 1 # SKIP $jomed is not built (make check-index builds the libraries alone)"; exit 0; }
t=$(mktemp -d); trap 'rm -rf "$t"' EXIT
demo=models/demo
n=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; sed 's/^/# /' "$t/out" "$t/err"; fi; }
run() { "$jomed" index "$@" >"$t/out" 2>"$t/err"; }
# The first 60 lines are enough of a corpus.
head -n 60 $demo/synthetic/index.jsonl >"$t/items.jsonl"
build=(build --retriever $demo/retriever --jsonl "$t/items.jsonl" --images $demo/synthetic)

run "${build[@]}" --out "$t/a"; s=$?
[ $s = 0 ] && grep -q "a: 60 passages of 60 items" "$t/out" && [ ! -e "$t/a.partial" ]; ok $? "an index is built"
run info "$t/a"; [ $? = 0 ] && grep -q "^source       breastmnist: 60$" "$t/out"; ok $? "info says what is in it"
run info --json "$t/a"; [ $? = 0 ] && grep -q '"n_passages": 60' "$t/out" && grep -q '"hash"' "$t/out"; ok $? "info --json has the manifest and its hash"
run verify --images "$t/a"; [ $? = 0 ] && grep -q "whole, every image is there" "$t/out"; ok $? "verify finds it whole"

run "${build[@]}" --out "$t/a"; [ $? = 1 ] && grep -q -- "--force replaces" "$t/err"; ok $? "an existing index is not overwritten: status 1"
run "${build[@]}" --out "$t/a" --force; ok $? "--force replaces it"

# SIGINT once the first rows are there: status 1 and a checkpoint; the same command goes on and makes the same vectors.
"$jomed" index "${build[@]}" --out "$t/b" >"$t/out" 2>"$t/err" & p=$!
for _ in $(seq 600); do [ -e "$t/b.partial/image.f32" ] && break; sleep 0.05; done
kill -INT $p; wait $p; s=$?
if [ -e "$t/b" ]; then [ $s = 0 ]; ok $? "it was done before the signal came"
else [ $s = 1 ] && grep -q "run the same command again to continue" "$t/err" && [ -e "$t/b.partial/passages.db" ]; ok $? "SIGINT keeps a checkpoint: status 1"; fi
[ -e "$t/b" ] || run "${build[@]}" --out "$t/b"
cmp "$t/a/image.faiss" "$t/b/image.faiss" >>"$t/err" 2>&1 && cmp "$t/a/text.faiss" "$t/b/text.faiss" >>"$t/err" 2>&1
ok $? "an interrupted build ends with the same bytes"

# A terminal sees rate and time left; a file or a pipe does not.
if script -qec true /dev/null >"$t/err" 2>&1 </dev/null; then
    script -qec "$jomed index build --retriever $demo/retriever --jsonl $t/items.jsonl --images $demo/synthetic --out $t/e" /dev/null >"$t/out" 2>"$t/err" </dev/null
    grep -aq "source 1/1  100 %  60 items  [0-9.]*/s  0 skipped  [0-9:?]* left" "$t/out"; ok $? "a terminal sees rate and time left"
else n=$((n + 1)); echo "ok $n # SKIP rate and time left: $(head -n 1 "$t/err")"; fi # no /dev/pts: a bare chroot
run "${build[@]}" --out "$t/f" && ! grep -q " left" "$t/err"; ok $? "a file does not"

run "${build[@]}" --embed-images --out "$t/c" && mv "$t/c" "$t/d" && run verify --images "$t/d"; ok $? "an index with embedded images can be moved"

# ---- each kind of source, several in one index, exact duplicates ----
pictures=($demo/synthetic/breast/train/*.png)
mkdir -p "$t/roco/images" "$t/pmc" "$t/mimic/files/p10/p10000032/s50414267"
cp "${pictures[0]}" "$t/roco/images/ROCO_1.jpg" && cp "${pictures[1]}" "$t/roco/images/ROCO_2.jpg"
printf 'ROCO_1\tA mass.\nROCO_2\tA cyst.\n' >"$t/roco/captions.txt"
cp "${pictures[2]}" "$t/pmc/a.png"
printf '{"image": "a.png", "caption": "A figure."}\n{"image": "a.png", "caption": "A figure."}\n' >"$t/pmc.jsonl"
cp "${pictures[3]}" "$t/mimic/files/p10/p10000032/s50414267/aa.jpg"
printf 'dicom_id,subject_id,study_id,ViewPosition\naa,10000032,50414267,PA\n' >"$t/mimic/mimic-cxr-2.0.0-metadata.csv"
printf 'FINDINGS: The lungs are clear.\n' >"$t/mimic/files/p10/p10000032/s50414267.txt"
all=(build --retriever $demo/retriever --roco "$t/roco" --pmc-oa "$t/pmc.jsonl" --images "$t/pmc" --mimic "$t/mimic"
     --jsonl "$t/items.jsonl" --images $demo/synthetic --name ours)
run "${all[@]}" --out "$t/all"; [ $? = 0 ] && grep -q "65 passages of 65 items" "$t/out"; ok $? "four kinds of sources make one index"
run info "$t/all"; [ "$(grep -c '^source ' "$t/out")" = 4 ] && grep -q "^source .*mimic-cxr: 1$" "$t/out" && grep -q "65 of 65 items (0 skipped, 1 exact duplicates" "$t/out"
ok $? "info counts each source, and a duplicate"
run "${all[@]}" --dedupe --out "$t/fewer"; [ $? = 0 ] && grep -q "64 passages of 65 items" "$t/out"; ok $? "--dedupe merges the duplicate"
npz=${JOMED_SHARED:-../shared}/data/medmnist/retinamnist.npz
if [ -f "$npz" ]; then
    echo '{"0": ["none a", "none b"], "1": ["mild"], "2": ["moderate"], "3": ["severe"], "4": ["proliferative"]}' >"$t/captions.json"
    run build --retriever $demo/retriever --medmnist "$npz" --split val --captions "$t/captions.json" --out "$t/retina"
    [ $? = 0 ] && grep -q "120 passages of 120 items" "$t/out"; ok $? "a MedMNIST archive makes an index"
else n=$((n + 1)); echo "ok $n # SKIP $npz is not there"; fi

printf 'x' | dd of="$t/a/text.faiss" bs=1 seek=1000 conv=notrunc 2>/dev/null
run verify "$t/a"; [ $? = 1 ] && grep -q "problem: .*text.faiss: damaged" "$t/out"; ok $? "verify names a damaged file: status 1"
run verify "$t/none"; [ $? = 1 ] && grep -q "no index here" "$t/out"; ok $? "verify says that there is no index: status 1"

usage() { # TEXT ARGUMENTS...
    local want=$1; shift
    run "$@"; [ $? = 2 ] && grep -q -- "$want" "$t/err"; ok $? "status 2: $want"
}
usage "build, info or verify is missing"
usage "frob is not known" frob
usage "--retriever is missing" build --out "$t/x" --jsonl a
usage "--out is missing" build --retriever $demo/retriever --jsonl a
usage "no source is given" build --retriever $demo/retriever --out "$t/x"
usage "--images and the like come after the source" build --retriever r --out "$t/x" --images i --jsonl a --jsonl b
usage "--images is given twice" build --retriever r --out "$t/x" --jsonl a --images i --images j
usage "not known or lacks its value" build --retriever r --frob
usage "only options are taken" build --retriever $demo/retriever --out "$t/x" --jsonl a stray
usage "needs --captions" build --retriever $demo/retriever --out "$t/x" --medmnist "$t/x.npz"
usage "--factory: Nonsense" build --retriever $demo/retriever --out "$t/y" --jsonl "$t/items.jsonl" --factory Nonsense
usage "the index folder is missing" info
usage "one folder is taken" verify a b
run build --retriever $demo/retriever --out "$t/z" --jsonl "$t/none.jsonl"; [ $? = 1 ] && grep -q "none.jsonl: No such file" "$t/err"
ok $? "a missing source is named: status 1"
for c in "" build info verify; do
    # shellcheck disable=SC2086
    run $c --help; [ $? = 0 ] && grep -q "^usage: jomed index" "$t/out" && [ ! -s "$t/err" ]; ok $? "--help of index $c"
done
echo "1..$n"
