#!/usr/bin/env bash
# test_vqa.sh - data sets of questions, read as published and answered by the demonstration model (whose answers mean nothing
# here; the path is the real one): each picture's vision tokens once, lines in file order, the same bits however it is run.
# VQA-RAD's and SLAKE's files are not ours to ship; without ../shared/data they are skipped, and a set of our own pictures stays.
# JOMED_VQA_LIMIT=N takes the first N questions of each half of VQA-RAD (default 80; 0: all).
set -u
jomed=$JOMED_BUILD/jomed demo=models/demo
rad=$JOMED_SHARED/data/vqa-rad slake=$JOMED_SHARED/data/slake-text
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
status=0
ok() { if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; head -c 800 "$dir/err" 2>/dev/null | sed 's/^/# /'; fi; }

index=${JOMED_DEMO_INDEX:-}
if [ ! -f "$index/manifest.json" ]; then
    index=$dir/index
    "$jomed" index build --quiet --retriever $demo/retriever --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --out "$index" || exit 1
fi
models="--reader $demo/reader --retriever $demo/retriever --index $index"
run() { # predictions, summary, arguments...
    local predictions=$1 summary=$2; shift 2
    "$jomed" eval $models --json --predictions "$predictions" "$@" >"$summary" 2>"$dir/err"
}
number() { grep -o "\"$1\":[^,}]*" "$2" | head -n 1 | sed 's/.*://'; }
in_order() { # predictions, cases: line i is case i
    [ "$(wc -l <"$1")" -eq "$2" ] && awk -v n=0 '{if (index($0, "{\"case\":" n ",") != 1) exit 1; n++}' "$1"
}

# ---- our own pictures, in VQA-RAD's format: five questions about two of them, in turn ----
picture() { echo "synpic$1.jpg"; }
cp tests/fixtures/images/"$(ls tests/fixtures/images | grep 'jpg$' | head -n 1)" "$dir/$(picture 1)"
cp tests/fixtures/images/"$(ls tests/fixtures/images | grep 'jpg$' | tail -n 1)" "$dir/$(picture 2)"
record() { echo "{\"qid\": $RANDOM, \"image_name\": \"$(picture $1)\", \"question\": \"$2\", \"answer\": $3, \"answer_type\": \"$4\"}"; }
{ echo "["; record 1 "Is it a mass?" '"Yes"' CLOSED; echo ,; record 2 "What is it?" '"a mass"' OPEN; echo ,
  record 1 "Which plane?" '"axial"' CLOSED; echo ,; record 2 "How many?" 2 OPEN; echo ,; record 1 "Is it?" '"no"' "CLOSED "; echo "]"; } >"$dir/own.json"
run "$dir/p" "$dir/s" --vqa "$dir/own.json" --task tasks/vqa-rad.json --workers 2; ok $? "questions of our own pictures are not answered"
in_order "$dir/p" 5; ok $? "lines are not in the file's order"
[ "$(number n "$dir/s")" = 2 ] && [ "$(number n_open "$dir/s")" = 3 ] && [ "$(number n_failed "$dir/s")" = 0 ]
ok $? "closed and decoded questions are not 2 and 3"
grep -q '"query_pictures":{"encoded":2,"reused":3}' "$dir/s"; ok $? "a picture's vision tokens are not computed once"
grep -q '"by_answer_type":{"closed":{"n":3,.*"open":{"n":2,.*"by_gold":{"yes_no":{"n":2,' "$dir/s"; ok $? "questions are sorted otherwise than the data set has it"
grep -q '"task":"vqa-rad"' "$dir/s" && grep -q '"image_policy":"jomed-256"' "$dir/s"; ok $? "the task or its image policy is not in the summary"
[ "$(sed -n 1p "$dir/p" | grep -c '"gold":"Yes","answer":"\(yes\|no\)","probs":\[')" -eq 1 ]; ok $? "a closed question is not answered from its set"
sed -n 4p "$dir/p" | grep -q '"gold":"2","answer":".*"log_likelihood":.*"tokens":.*"agrees":'; ok $? "a decoded answer is not in its line"
same() { cmp -s "$dir/p" "$dir/p2"; ok $? "$1"; }
run "$dir/p2" "$dir/s2" --vqa "$dir/own.json" --task tasks/vqa-rad.json --workers 1; same "one worker gives other bits than two"
run "$dir/p2" "$dir/s2" --vqa "$dir/own.json" --task tasks/vqa-rad.json --cache-mb 0; same "without cached prefixes the bits are others"
# Each question alone has no picture to share.
for i in 0 1 2 3 4; do
    { echo "["; awk -v want=$i 'BEGIN {n = 0} /qid/ {if (n++ == want) print}' "$dir/own.json"; echo "]"; } >"$dir/one.json"
    run "$dir/one" "$dir/s2" --vqa "$dir/one.json" --task tasks/vqa-rad.json; sed "s/{\"case\":0,/{\"case\":$i,/" "$dir/one"
done >"$dir/p2"
same "a question alone gives other bits than after another about its picture"

# The other family: its tower gives another number of tokens, and its reader is not the one that the index was shown with.
"$jomed" eval --reader tests/fixtures/pixtral-tiny --retriever $demo/retriever --index "$index" --vqa "$dir/own.json" --json >"$dir/s" 2>"$dir/err"
[ $? -eq 0 ] && grep -q '"query_pictures":{"encoded":2,"reused":3}' "$dir/s" && [ "$(number n_open "$dir/s")" = 3 ]
ok $? "a Pixtral reader does not answer them, each picture's vision tokens once"

# ---- SLAKE's questions, about pictures of ours ----
if [ -d "$slake" ]; then
    # Two pictures of its first questions; every other one is missing, and is told of.
    for x in $(grep -o '"img_name": "[^"]*"' "$slake/validate.json" | sort -u | head -n 2 | sed 's/.*: "\(.*\)"/\1/'); do
        mkdir -p "$dir/slake/$(dirname "$x")"; cp "$dir/$(picture 1)" "$dir/slake/$x"
    done
    run "$dir/p" "$dir/s" --vqa "$slake/validate.json" --images "$dir/slake" --task tasks/slake.json
    [ $? -eq 1 ] && [ "$(number n_cases "$dir/s")" = 1053 ] && in_order "$dir/p" 1053; ok $? "SLAKE's English questions are not 1053"
    answered=$(grep -c '"candidates"' "$dir/p"); missing=$(grep -c '"problem":"image-missing"' "$dir/p")
    [ "$answered" -gt 4 ] && [ $((answered + missing)) -eq 1053 ] && [ "$(number n_failed "$dir/s")" = "$missing" ]
    ok $? "a question without its picture is not told of"
else echo "ok - SLAKE's questions # SKIP no $slake: not ours to ship"; fi

# ---- VQA-RAD ----
if [ -d "$rad" ]; then
    limit=${JOMED_VQA_LIMIT:-80}
    for half in trainset testset; do
        n=$(grep -c '"qid"' "$rad/$half.json"); [ "$limit" -eq 0 ] || [ "$n" -lt "$limit" ] || n=$limit
        pictures=$(grep -o '"image_name": "[^"]*"' "$rad/$half.json" | head -n "$n" | sort -u | wc -l)
        run "$dir/p" "$dir/s" --vqa "$rad/$half.json" --images "$rad/images" --task tasks/vqa-rad.json --limit "$n"
        ok $? "VQA-RAD $half does not run without a failure"
        in_order "$dir/p" "$n" && [ $(($(number n "$dir/s") + $(number n_open "$dir/s"))) -eq "$n" ]; ok $? "VQA-RAD $half: $n questions are not all answered, in order"
        [ "$(number encoded "$dir/s" | tr -d '{')" = "$pictures" ] && [ "$(number reused "$dir/s")" = $((n - pictures)) ]
        ok $? "VQA-RAD $half: vision tokens of $pictures pictures are not computed once each"
        case $(number cache_hit_rate "$dir/s") in 0.[0-9]*) [ "$(number flops "$dir/s")" -gt 0 ];; *) false;; esac
        ok $? "VQA-RAD $half: no cache hit rate or no FLOPs in the summary"
    done
else echo "ok - VQA-RAD # SKIP no $rad: not ours to ship"; fi
exit $status
