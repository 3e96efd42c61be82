#!/usr/bin/env bash
# test_cli.sh - the command line: --help of every command, exit statuses, errors that name what to mend, text and JSON, and a
# man page that has every option.
set -u
jomed=$JOMED_BUILD/jomed demo=models/demo
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
failed=0
ok() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"
    else echo "not ok - $2"; failed=1; head -c 600 "$dir/out" "$dir/err" 2>/dev/null | sed 's/^/# /'; fi
}
# gives STATUS PATTERN NAME COMMAND...: exit status, and stdout and stderr together match PATTERN
gives() {
    local want=$1 pattern=$2 name=$3 got; shift 3
    "$@" >"$dir/out" 2>"$dir/err" </dev/null; got=$?
    [ $got -eq "$want" ] && cat "$dir/out" "$dir/err" | grep -qe "$pattern"
    ok $? "$name"
}

index=${JOMED_DEMO_INDEX:-}
if [ ! -f "$index/manifest.json" ]; then
    index=$dir/index
    "$jomed" index build --quiet --retriever $demo/retriever --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --out "$index" || exit 1
fi
retriever="--retriever $demo/retriever --index $index"
models="--reader $demo/reader $retriever"
picture=$demo/synthetic/retina/test/0028.png
ask() { "$jomed" diagnose $models --question "what is the severity of diabetic retinopathy?" "$@"; }

# ---- help and usage ----
commands="diagnose retrieve embed index eval serve show version"
for c in $commands; do
    gives 0 "^usage: jomed $c" "$c --help fails or shows another usage" "$jomed" $c --help
    gives 2 "jomed $c --help" "$c takes an unknown option" "$jomed" $c --no-such-option
done
for c in build info verify; do gives 0 "^usage: jomed index" "index $c --help fails" "$jomed" index $c --help; done
for c in $commands; do gives 0 "^  $c " "$c is not in the list of commands" "$jomed" --help; done
gives 0 "research use only" "--help does not say what the program may not be used for" "$jomed" --help
gives 2 "^usage: jomed COMMAND" "without a command the status is not 2" "$jomed"
gives 2 "there is no command 'diagnoze'" "an unknown command is not named" "$jomed" diagnoze
gives 0 "^jomed [0-9]" "version has no version" "$jomed" version

# ---- errors name what to mend ----
gives 2 "--reader is missing" "a missing --reader is not named" "$jomed" diagnose $retriever --question q --answers a,b $picture
gives 2 "--question is missing" "a missing --question is not named" "$jomed" diagnose $models --answers a,b $picture
gives 2 "are for open questions" "an option of open questions is lost on a closed one" ask --answers a,b --beams 2 $picture
gives 2 "--max-new-tokens takes" "513 new tokens are taken" ask --max-new-tokens 513 $picture
gives 2 "--beams takes" "9 beams are taken" ask --beams 9 $picture
gives 2 "--repetition-penalty takes a number from 1 to 10" "a penalty below 1 is taken" ask --repetition-penalty 0.9 $picture
gives 1 "beams is 2, the mode reference" "the mode reference takes beams" ask --mode reference --beams 2 $picture
gives 2 "a question has one or the other" "labels beside answers are taken" ask --answers a,b --labels a $picture
gives 2 "are for open questions" "an option of open questions is lost on labels" ask --labels a --beams 2 $picture
gives 1 "labels\[1\] is empty" "an empty label is taken" ask --labels a,,b $picture
gives 1 "labels\[1\] equals labels\[0\]" "a label is taken twice" ask --labels a --label a $picture
gives 2 "image file is missing" "a missing image is not named" ask --answers a,b
gives 2 "--k takes" "k of 0 is taken" ask --answers a,b --k 0 $picture
gives 2 "--k takes" "k of 51 is taken" ask --answers a,b --k 51 $picture
gives 2 "--mode takes" "an unknown mode is taken" ask --answers a,b --mode guess $picture
gives 2 "device: unknown; there are auto, cpu" "an unknown device is taken" ask --answers a,b --device gpu9 $picture
gives 2 "--search takes auto, faiss" "an unknown search is taken" ask --answers a,b --search ivf $picture
gives 2 "search: exact runs on a GPU" "a search of the GPU is taken without one" ask --answers a,b --search exact --device cpu $picture
gives 1 "no-such.png" "a missing image file is not named" ask --answers a,b no-such.png
gives 1 "answers: 1 given" "one answer is taken" ask --answers a $picture
gives 1 "answers\[1\] is empty" "an empty answer is taken" ask --answers a, $picture
gives 1 "image" "a file that is no image is taken" ask --answers a,b Makefile
gives 0 "WARNING: the image is 16-bit grey" "a 16-bit radiograph is clipped in silence" ask --answers a,b tests/fixtures/variants/gray16.png
gives 0 '"warnings":\["the image is 16-bit grey' "a 16-bit radiograph is clipped in silence (JSON)" ask --json --answers a,b tests/fixtures/variants/gray16.png
gives 0 '"warnings":\[\]' "a warning without a cause" ask --json --answers a,b $picture
gives 0 "WARNING: the image is 16-bit grey" "retrieve clips a 16-bit radiograph in silence" "$jomed" retrieve $retriever --index "$index" tests/fixtures/variants/gray16.png
gives 1 "nowhere" "a missing reader folder is not named" "$jomed" diagnose --reader nowhere $retriever --question q --answers a,b $picture
gives 1 "nowhere" "a missing retriever folder is not named" "$jomed" retrieve --retriever nowhere --index "$index" $picture
gives 1 "nowhere.*index build" "a missing index is not named" "$jomed" retrieve --retriever $demo/retriever --index nowhere $picture
cp -r "$index" "$dir/other"
sed 's/"retriever_hash": *"[0-9a-f]\{8\}/"retriever_hash": "00000000/' "$index/manifest.json" >"$dir/other/manifest.json"
gives 1 "another retriever" "an index of another retriever is served" ask --answers 0,1 --index "$dir/other" $picture
gives 1 "Makefile: line 1" "show takes what is no JSON" "$jomed" show Makefile
gives 1 "not an answer" "show takes another JSON" "$jomed" show "$index/manifest.json"
echo '{"type": "x", "title": "Queue is full", "status": 503, "detail": "try later"}' >"$dir/problem.json"
gives 1 "Queue is full: try later" "show hides the server's problem" "$jomed" show "$dir/problem.json"

# ---- answers ----
gives 0 "^Answer    3 " "diagnose gives another answer" ask --answers 0,1,2,3,4 $picture
gives 0 "THE PAIRS DISAGREE" "diagnose does not say that the pairs disagree" ask --answers 0,1,2,3,4 $picture
gives 0 "research use only" "diagnose leaves out the notice" ask --answers 0,1,2,3,4 $picture
ask --answers 0,1,2,3,4 --json $picture >"$dir/a.json" 2>"$dir/err"
gives 0 "^Answer    3 " "show cannot read diagnose --json" "$jomed" show "$dir/a.json"
# Times differ from run to run, all else is the same text.
still() { sed 's/, [0-9.]* ms\.$//; /^Image/d'; }
"$jomed" show --question "what is the severity of diabetic retinopathy?" "$dir/a.json" | still >"$dir/shown"
ask --answers 0,1,2,3,4 $picture | still >"$dir/asked"
cmp -s "$dir/shown" "$dir/asked"; ok $? "show and diagnose print different text"
# an open question: the words, then what they rest on
gives 0 "^Answer    3$" "an open question is not answered in words" ask $picture
gives 0 "log p -[0-9.]*, 1 token$" "an open answer does not say how likely it is" ask $picture
gives 0 "^  0.[0-9]*  yes  .*image 0.9" "an open answer does not show its evidence" ask $picture
gives 0 "cut off: no end came" "an answer that was cut off does not say so" "$jomed" diagnose $models --question "Is it?" --max-new-tokens 1 $demo/synthetic/breast/test/0007.png
ask --beams 2 --json $picture >"$dir/o.json" 2>"$dir/err"
grep -q '"answer":"3","tokens":1,"ended":true,"log_likelihood":-[0-9.]*,"consistent":' "$dir/o.json"
ok $? "diagnose --json has no open answer"
gives 0 "^Answer    3$" "show does not show an open answer" "$jomed" show "$dir/o.json"

# the words come as they are made (dd counts what it is given at a time), below their question, once; then what they rest on
talk() { ask --reader tests/fixtures/qwen2vl-tiny --question "what?" --max-new-tokens 200 "$@" $picture; }
talk 2>"$dir/err" | dd bs=64k of="$dir/out" 2>"$dir/dd"
[ "$(sed -n 's/^0+\([0-9]*\) records in/\1/p' "$dir/dd")" -ge 5 ]; ok $? "an open answer is not printed as it is made"
talk --json >"$dir/o.json" 2>>"$dir/err"
[ "$(sed -n 's/^Answer    //p' "$dir/out")" = "$(sed 's/.*"answer":"\([^"]*\)".*/\1/' "$dir/o.json")" ]; ok $? "the words printed are not the answer, or come twice"
[ "$(sed -n '1s/^Image .*/i/p; 2s/^Question .*/q/p; 3s/^Answer .*/a/p; 4s/^ *log p .*/l/p; 6s/^  Evidence.*/e/p' "$dir/out" | tr -d '\n')" = iqale ] && [ "$(grep -c '^Question\|^Answer\|^  Evidence' "$dir/out")" = 3 ]
ok $? "an open answer is not printed in the order of question, words, likelihood, evidence"

# labels: each by itself
grades="Haemorrhages,Severe diabetic retinopathy,A healthy retina"
gives 0 "^Present   " "diagnose does not say which labels are present" ask --labels "$grades" $picture
gives 0 "^  0.[0-9]* .* Severe diabetic retinopathy$" "diagnose does not show how probable a label is" ask --labels "$grades" $picture
gives 0 "^  0.[0-9]*   [0-9] of 3 .*image 0.9" "diagnose does not show what a pair says of labels" ask --labels "$grades" $picture
gives 0 '"labels":\[{"label":"a, b","probability":0.[0-9]*}\],"consistent":' "diagnose --json has no labels" ask --label "a, b" --json $picture
ask --labels "$grades" --json $picture >"$dir/l.json" 2>"$dir/err"
"$jomed" show --question "what is the severity of diabetic retinopathy?" "$dir/l.json" | still >"$dir/shown"
ask --labels "$grades" $picture | still >"$dir/asked"
cmp -s "$dir/shown" "$dir/asked"; ok $? "show and diagnose print different text of labels"

gives 0 '"consistent":false' "diagnose --json has no consistent" ask --answers 0,1,2,3,4 --json $picture
gives 1 "no-such.png" "one bad image of two is not named" ask --answers 0,1 --json no-such.png $picture
[ "$(wc -l <"$dir/out")" -eq 1 ]; ok $? "one bad image of two leaves the other without an answer"

# ---- the other family, and pictures as the released code had them ----
pixtral="--reader tests/fixtures/pixtral-tiny"
gives 0 "^Answer    \(yes\|no\) " "a Pixtral reader gives no answer" ask $pixtral --answers yes,no $picture
gives 0 '"reader":{"family":"llava","sha256":"[0-9a-f]*","image_policy":"native"}' "an answer does not name the Pixtral reader" ask $pixtral --answers yes,no --json $picture
gives 0 '"image_policy":"jomed-256"' "an answer does not name the image policy" ask --answers 0,1 --image-policy jomed-256 --json $picture
gives 2 "--image-policy takes native or jomed-256" "an unknown image policy is taken" ask --answers 0,1 --image-policy jomed $picture
gives 0 "2 cases scored" "eval does not run a Pixtral reader" "$jomed" eval $pixtral $retriever --image-policy jomed-256 --jsonl $demo/synthetic/breast_val.jsonl --limit 2

# ---- what an answer rests on ----
# A picture of the index finds itself, unless it is left out.
own=$(sed -n '1s/.*"img_path": *"\([^"]*\)".*/\1/p' $demo/synthetic/index.jsonl)
ids() { sed -n 's/.*"evidence":\(.*\)/\1/p' "$dir/out" | grep -o '{"id":[0-9]*' | tr '\n' ' '; }
gives 0 '"id":0,"heads":' "a picture of the index does not find itself" "$jomed" diagnose $models --question q --answers 0,1 --json $demo/synthetic/$own
"$jomed" diagnose $models --question q --answers 0,1 --json --exclude-self $demo/synthetic/$own >"$dir/out" 2>"$dir/err"
case "$(ids)" in *'"id":0 '*|'') false;; *) true;; esac; ok $? "--exclude-self does not leave out the picture itself"
hash=$("$jomed" index info --json "$index" | sed -n 's/^  "hash": "\([0-9a-f]\{64\}\)".*/\1/p')
of_retriever=$("$jomed" index info --json "$index" | sed -n 's/^  "retriever_hash": "\([0-9a-f]\{64\}\)".*/\1/p')
gives 0 "\"index\":{\"sha256\":\"${hash:-?}\",\"passages\":720}" "an answer does not name the index" ask --answers 0,1 --json $picture
gives 0 "\"retriever\":{\"family\":\"jina-clip-v1\",\"sha256\":\"${of_retriever:-?}\"" "an answer does not name the retriever" ask --answers 0,1 --json $picture
gives 0 '"reader":{"family":"qwen2_vl","sha256":"[0-9a-f]\{64\}"' "an answer does not name the reader" ask --answers 0,1 --json $picture
gives 0 "\"program\":{\"name\":\"jomed\",\"version\":\"$("$jomed" version | sed -n 's/^jomed //p')\"}" "an answer does not name the program" ask --answers 0,1 --json $picture
gives 0 '"timings_ms":{"decode":[0-9.]*,"retrieve":[0-9.]*,"passages":[0-9.]*,"read":[0-9.]*,"fuse":[0-9.]*,"total":[0-9.]*}' "an answer has no timings" ask --answers 0,1 --json $picture
# entropy in nats, of the probabilities beside it
ask --answers 0,1,2,3,4 --json $picture >"$dir/out" 2>"$dir/err"
sed 's/"evidence".*//' "$dir/out" | grep -o '"probability":[0-9.e-]*\|"entropy_nats":[0-9.e-]*' | tr ':' ' ' |
    awk '/entropy/ {h = $2} /probability/ {if (n++) s -= $2 * log($2)} END {exit !(n == 6 && h > 0.1 && s - h < 1e-5 && h - s < 1e-5)}'
ok $? "the entropy is not that of the probabilities"

# ---- adapters ----
tiny="--reader tests/fixtures/qwen2vl-tiny" lora=tests/fixtures/qwen2vl-tiny-lora
first() { sed -n 's/.*"probability":\([0-9.e-]*\),"probabilities".*/\1/p' "$dir/out"; }
gives 0 '"adapter":null' "an answer of the base model names an adapter" ask $tiny --answers yes,no --json $picture
base=$(first)
gives 0 '"adapter":{"name":"a","sha256":"[0-9a-f]\{64\}","merged":false}' "an answer does not name its adapter" ask $tiny --adapter a=$lora --answers yes,no --json $picture
branch=$(first)
gives 0 '"adapter":{"name":"a","sha256":"[0-9a-f]\{64\}","merged":true}' "an answer does not name the merged adapter" ask $tiny --adapter a=$lora --lora-merge --answers yes,no --json $picture
merged=$(first)
awk -v b="$base" -v x="$branch" -v y="$merged" 'BEGIN {exit !(b != "" && b != x && x - y < 1e-4 && y - x < 1e-4)}'
ok $? "an adapter does nothing, or something else when merged ($base, $branch, $merged)"
gives 0 "2 cases scored" "eval does not take an adapter" "$jomed" eval $tiny $retriever --adapter a=$lora --jsonl $demo/synthetic/breast_val.jsonl --limit 2

gives 0 "grade 3" "retrieve does not show captions" "$jomed" retrieve $retriever $picture
gives 0 '"candidates":\[{"id":[0-9]*,"heads":' "retrieve --json has no candidates" "$jomed" retrieve $retriever --json $picture
gives 0 '"embedding":\[' "embed gives no embedding of a picture" "$jomed" embed --retriever $demo/retriever $picture
gives 0 "" "a configuration without a mistake is refused" "$jomed" serve --check-config $models
gives 0 '"embedding":\[' "embed gives no embedding" "$jomed" embed --retriever $demo/retriever --text "a fundus photograph"

# ---- eval ----
run() { "$jomed" eval $models "$@"; }
gives 2 "one data set" "eval without a data set is taken" run
gives 2 "one data set" "eval with two data sets is taken" run --jsonl a --medmnist b
gives 2 "--split is missing" "eval --medmnist without --split is taken" run --medmnist b --task c
gives 2 "one data set" "eval with two data sets is taken" run --jsonl a --vqa b
gives 2 "--split goes with --medmnist" "eval --jsonl with --split is taken" run --jsonl a --split c
gives 2 "--images goes with --jsonl and --vqa" "eval --medmnist with --images is taken" run --medmnist a --split b --task c --images d
gives 1 "no-such.json" "a missing task file is not named" run --jsonl $demo/synthetic/breast_val.jsonl --task no-such.json
gives 1 "no-such.json" "a missing VQA file is not named" run --vqa no-such.json
gives 1 "takes one of kind vqa" "a closed task over a VQA file is taken" run --vqa README.md --task tasks/breastmnist.json
gives 2 "--image-policy native, but tasks/breastmnist.json has jomed-256" "a policy that is not the task's is taken" run --image-policy native --jsonl $demo/synthetic/breast_val.jsonl --task tasks/breastmnist.json
gives 0 '"task":"breastmnist".*"image_policy":"jomed-256"' "a task over lines is not heeded" run --jsonl $demo/synthetic/breast_val.jsonl --task tasks/breastmnist.json --limit 2 --json
echo '{"kind": "multilabel", "question": "Which?", "labels": ["mass", "cyst", "normal"]}' >"$dir/labels.json"
echo '{"image_path": "breast/val/0000.png", "answer": "0, 2"}' >"$dir/labels.jsonl"
gives 0 '"multilabel":{"n":1,"answer_form":"probabilities"' "labels are not asked for" run --jsonl "$dir/labels.jsonl" --images $demo/synthetic --task "$dir/labels.json" --json
for set in vindr-pcxr brset; do
    gives 0 '"multilabel":{"n":1,"answer_form":"probabilities".*"label":"' "the shipped task $set does not run" run --jsonl "$dir/labels.jsonl" --images $demo/synthetic --task tasks/$set.json --json
    gives 0 '"multilabel":{"n":1,"answer_form":"generated".*"unparsed":' "the shipped task $set-generated does not run" run --jsonl "$dir/labels.jsonl" --images $demo/synthetic --task tasks/$set-generated.json --json
done
gives 0 "average precision" "the table leaves out the labels" run --jsonl "$dir/labels.jsonl" --images $demo/synthetic --task "$dir/labels.json"
sed 's/}/, "answer_form": "generated"}/' "$dir/labels.json" >"$dir/generated.json"
gives 0 '"multilabel":{"n":1,"answer_form":"generated"' "a list of labels is not generated" run --jsonl "$dir/labels.jsonl" --images $demo/synthetic --task "$dir/generated.json" --json
gives 2 "--workers takes" "no workers are taken" run --jsonl a --workers 0
gives 1 "no-such.jsonl" "a missing data set is not named" run --jsonl no-such.jsonl
gives 1 "no-such-folder" "predictions that cannot be written are not named" run --jsonl $demo/synthetic/breast_val.jsonl --limit 1 --predictions no-such-folder/p
gives 0 "2 cases scored" "the folder of the file is not where images start" run --jsonl $demo/synthetic/breast_val.jsonl --limit 2
gives 0 "research use only" "the report leaves out the notice" run --jsonl $demo/synthetic/breast_val.jsonl --limit 2
{ head -n 1 $demo/synthetic/breast_val.jsonl
  echo '{"image_path": "tasks", "question": "q", "answer": "Yes", "answers": ["Yes", "No"]}'
  echo '{"image_path": "breast_val.jsonl", "question": "q", "answer": "Yes", "answers": ["Yes", "No"]}'
  echo '{"image_path": "breast/val/0000.png", "question": "q", "answer": "a mass"}'; } >"$dir/mixed.jsonl"
gives 1 "2 of 4 cases failed" "cases that failed do not fail the run" run --jsonl "$dir/mixed.jsonl" --images $demo/synthetic --json --predictions "$dir/p"
grep -q '"n":1,' "$dir/out" && grep -q '"n_failed":2' "$dir/out" && grep -q '"n_open":1' "$dir/out" && grep -q '"problem":"image-missing"' "$dir/out"
ok $? "cases that failed are not counted and listed"
[ "$(wc -l <"$dir/p")" -eq 4 ] && sed -n 3p "$dir/p" | grep -q '^{"case":2,"gold":"Yes","error":{"problem":"image-' && sed -n 4p "$dir/p" | grep -q '^{"case":3,"gold":"a mass","answer":.*"log_likelihood":'
ok $? "predictions do not have a line for each case"
tail -n 1 "$dir/mixed.jsonl" >"$dir/open.jsonl"
gives 0 "1 cases scored, all decoded" "a set of open questions is not answered" run --jsonl "$dir/open.jsonl" --images $demo/synthetic
if script -qec true /dev/null >"$dir/out" 2>&1 </dev/null; then
    gives 0 "2/2 \[=*\] [0-9.]*/s, 0:00:00 left" "eval on a terminal does not show how far it is, its rate and the time left" \
        script -qec "$jomed eval $models --jsonl $demo/synthetic/breast_val.jsonl --limit 2" /dev/null
else echo "ok - eval on a terminal # SKIP $(head -n 1 "$dir/out")"; fi # no /dev/pts: a bare chroot
# Ctrl-C: whole lines, a report of what was answered, status 1.
rm -f "$dir/p"
for i in $(seq 40); do cat $demo/synthetic/breast_val.jsonl; done >"$dir/long.jsonl"
"$jomed" eval $models --jsonl "$dir/long.jsonl" --images $demo/synthetic --json --predictions "$dir/p" >"$dir/out" 2>"$dir/err" &
job=$!
# Thirty pictures forty times over: line 4 comes with the fifth picture, when some 160 cases were answered.
for i in $(seq 600); do [ "$(wc -l <"$dir/p" 2>/dev/null || echo 0)" -lt 5 ] || break; sleep 0.1; done
kill -INT $job; wait $job
[ $? -eq 1 ] && grep -q "interrupted after" "$dir/err" && grep -q '"interrupted":true' "$dir/out"; ok $? "an interrupted run does not say so"
n=$(wc -l <"$dir/p"); grep -q "\"n\":$n," "$dir/out" && [ "$n" -lt 1200 ] && ! grep -qv '^{"case":.*}$' "$dir/p" && [ -z "$(tail -c 1 "$dir/p" | tr -d '\n')" ]
ok $? "an interrupted run leaves part of a line, or reports other cases than it wrote"

# ---- the man page ----
for c in diagnose retrieve embed "index build" "index info" "index verify" eval serve show; do
    missing=
    for o in $("$jomed" $c --help | grep -o -e '--[a-z][a-z-]*' | sort -u); do
        [ $o = --help ] || sed 's/\\-/-/g' docs/jomed.1 | grep -qe "$o\b" || missing="$missing $o"
    done
    [ -z "$missing" ] || echo "# missing:$missing"
    [ -z "$missing" ]; ok $? "docs/jomed.1 leaves out options of $c"
done
if command -v groff >/dev/null; then
    groff -man -Tutf8 -ww docs/jomed.1 >"$dir/out" 2>"$dir/err" && [ ! -s "$dir/err" ] && grep -q "diabetic" "$dir/out"
    ok $? "docs/jomed.1 does not render without warnings"
else echo "ok - the man page renders # SKIP groff is not installed"; fi
exit $failed
