#!/usr/bin/env bash
# test_serve.sh - the program as it is run: start, answers with the demonstration model, settings, signals, exit statuses.
. "$(dirname "$0")/serve.sh"
picture=$demo/synthetic/breast/test/0000.png

# ---- what needs no models ----
"$jomed" serve --help | grep -q -- --deadline-max-ms; ok $? "--help lists the options"
"$jomed" serve --print-config --port 1 | grep -qx 'port = 1'; ok $? "--print-config prints what would be used"
exits 2 "reader is not set" --check-config
exits 2 "--prot is no option" --prot 1
printf '[server]\nport = x\n' >"$dir/bad.ini"
exits 2 "bad.ini:2: port is a whole number" --check-config --config "$dir/bad.ini"
printf '[server]\nprot = 1\n' >"$dir/bad.ini"
exits 2 "bad.ini:2: no setting is called" --check-config --config "$dir/bad.ini"
exits 1 "index: $dir/none" --check-config --reader $demo/reader --retriever $demo/retriever --index "$dir/none"
auto=$("$jomed" serve --check-config --reader $demo/reader --retriever $demo/retriever --index "$dir" --device cpu)
has "$auto" "cache_mb = auto: 62 MiB" "--check-config says how large the cache will be"
exits 2 "on a CPU the cache is host memory already" --check-config --reader $demo/reader --retriever $demo/retriever --index "$dir" --device cpu --cache-host-mb 1
exits 1 "config.json" --check-config --reader "$dir" --retriever $demo/retriever --index "$dir" --device cpu
JOMED_SERVER_PORT=70000 "$jomed" serve --check-config 2>"$dir/err"; is $? 2 "a wrong environment variable"
has "$(cat "$dir/err")" "JOMED_SERVER_PORT: port is" "a wrong environment variable is named"

# ---- with the demonstration model ----
need_index
cat >"$dir/jomed.ini" <<INI
[models]
reader = $demo/reader
retriever = $demo/retriever
index = /from/the/file
[server]
port = 1
drain_grace_ms = 0
INI
export JOMED_MODELS_INDEX=$index # over the file's
set_up=(--config "$dir/jomed.ini")
diagnose=(-F "image=@$picture" -F 'question=Is this breast ultrasound malignant?' -F answers=Yes -F answers=No)

start "${set_up[@]}"
has "$url" http://127.0.0.1: "--port 0 prints the port it took"
is "$(wc -l <"$dir/out")" 1 "one line on standard output"
is "$(ask "$url/readyz")" 200 "ready when the port opens"
has "$(cat "$dir/log")" '"cache_bytes": 65536000, "cache_host_bytes": 0,' "the log says how large the cache is"
is "$(ask "${diagnose[@]}" "$url/v1/diagnoses")" 200 "a picture is diagnosed"
first=$(answer "$dir/body")
ask "${diagnose[@]}" "$url/v1/diagnoses" >"$dir/code"
numbers=$(curl -s "$url/metrics")
is "$(awk '$1 ~ /^jomed_prefix_cache_(host_)?limit_bytes$/ {printf "%s ", $2}' <<<"$numbers")" "65536000 0 " "and so do the metrics"
is "$(awk '$1 ~ /^jomed_prefix_cache_host_hits_total$/ {print $2}' <<<"$numbers")" 0 "hits from host memory are counted"
is "$(answer "$dir/body")" "$first" "the same request gives the same bits with a warm cache"
has "$first" '"intended_use":"For research use only' "the answer says what it is for"
printf '{"image": "%s", "question": "Is this breast ultrasound malignant?", "answers": ["Yes", "No"]}' "$(base64 -w0 $picture)" >"$dir/json"
is "$(ask -H 'Content-Type: application/json' --data-binary "@$dir/json" "$url/v1/diagnoses")" 200 "a JSON body"
is "$(answer "$dir/body")" "$first" "JSON and multipart give the same bits"
# labels, each the closed question that it stands for
asked="image=@$picture"; question='question=Which of these does it show?'
is "$(ask -F "$asked" -F "$question" -F labels=cyst -F "labels=a malignant mass" "$url/v1/diagnoses")" 200 "labels are answered"
of_label=$(sed -E 's/.*"label":"a malignant mass","probability":([0-9.e-]*).*/\1/' "$dir/body")
has "$(cat "$dir/body")" '"present":[' "the answer says which are present"
is "$(ask -F "$asked" -F "labels=a malignant mass" -F labels=cyst -F "$question" "$url/v1/diagnoses")" 200 "the labels turned round"
is "$(sed -E 's/.*"label":"a malignant mass","probability":([0-9.e-]*).*/\1/' "$dir/body")" "$of_label" "a label does not depend on the others"
is "$(ask -F "$asked" -F "$question
a malignant mass?" -F answers=Yes -F answers=No "$url/v1/diagnoses")" 200 "the same as a closed question"
is "$(sed -E 's/.*"answer":"Yes","probability":([0-9.e-]*).*/\1/' "$dir/body")" "$of_label" "a label is its closed question"
is "$(ask -F "$asked" -F "$question" -F labels=cyst -F answers=a -F answers=b "$url/v1/diagnoses")" 422 "labels beside answers"
has "$(cat "$dir/body")" '"type":"urn:jomed:problem:field-conflict"' "is a conflict"
is "$(ask -F "image=@$picture" -F k=50 "$url/v1/retrievals")" 200 "a picture's neighbours are retrieved"
id=$(sed -E 's/.*"candidates":\[\{"id":([0-9]+).*/\1/' "$dir/body")
is "$(ask "$url/v1/passages/$id")" 200 "a candidate can be looked up"
is "$(ask "$url/v1/passages/$id/image")" 200 "and so can its picture"
head -c4 "$dir/body" | grep -qa PNG; ok $? "which is the picture"
is "$(ask "$url/v1/models")" 200 "models"
is "$(ask "$url/openapi.json")" 200 "contract"
is "$(ask -F "image=@$picture" -F k=51 "$url/v1/retrievals")" 422 "k out of bounds"
# a picture of the index, which would find itself
own=(-F "image=@$demo/synthetic/breast/train/0000.png" -F question=q -F answers=0 -F answers=1)
ask "${own[@]}" "$url/v1/diagnoses" >"$dir/code"
has "$(cat "$dir/body")" '"evidence":[{"id":0,' "a picture of the index finds itself"
is "$(ask "${own[@]}" -F exclude.self=true "$url/v1/diagnoses")" 200 "and is answered without itself"
! grep -q '{"id":0,' "$dir/body"; ok $? "which leaves it out"
# more than the limit: refused while curl still waits for 100 Continue
head -c 40000000 /dev/zero >"$dir/large"
is "$(ask -F "image=@$dir/large" "$url/v1/diagnoses")" 413 "a body over the limit"
is "$(ask -H Expect: -F "image=@$dir/large" "$url/v1/diagnoses")" 413 "a body over the limit, pushed without waiting"
exits 1 "cannot take 127.0.0.1 port ${url##*:}" --reader $demo/reader --retriever $demo/retriever --index "$index" --port "${url##*:}"
stop TERM
is $code 0 "SIGTERM ends it with status 0"
grep -q '"event": "stopped"' "$dir/log"; ok $? "and the log says so"
! grep -q -e malignant -e 0000.png "$dir/log"; ok $? "the log holds nothing of the requests"
! grep -q dropped_field "$dir/log" && grep -q '"search": "faiss"' "$dir/log"; ok $? "and every field of ours"

# ---- draining ----
start "${set_up[@]}" --drain-grace-ms 3600000
kill -TERM $pid
while [ "$(ask "$url/readyz")" = 200 ]; do sleep 0.05; done
is "$(ask "$url/readyz")" 503 "readiness is red during the grace"
is "$(ask "${diagnose[@]}" "$url/v1/diagnoses")" 200 "work is still taken during the grace"
stop INT
is $code 1 "a second signal ends it at once"
start "${set_up[@]}"; stop INT
is $code 0 "SIGINT ends it like SIGTERM"

# ---- adapters: of the fixture's reader, since the demonstration's has none ----
tiny=tests/fixtures/qwen2vl-tiny
start "${set_up[@]}" --reader $tiny --adapter text=$tiny-lora --adapter both=$tiny-lora-vision
is "$(ask "${diagnose[@]}" -F adapter=text "$url/v1/diagnoses")" 200 "an adapter answers"
has "$(cat "$dir/body")" '"adapter":{"name":"text","sha256":"' "and the answer says which"
is "$(ask "${diagnose[@]}" "$url/v1/diagnoses")" 200 "without the field"
has "$(cat "$dir/body")" '"adapter":null' "the base model answers"
is "$(ask "${diagnose[@]}" -F adapter=retina "$url/v1/diagnoses")" 422 "an unknown adapter"
has "$(cat "$dir/body")" "adapter: this reader has text, both" "the known ones are listed"
stop TERM
is $code 0 "a server with adapters ends with status 0"
! grep -q retina "$dir/log"; ok $? "the log does not hold the name that was asked for"

# ---- a reader of few tokens ----
mkdir "$dir/short" && cp $demo/reader/* "$dir/short/"
sed -i 's/"max_position_embeddings": 32768/"max_position_embeddings": 120/' "$dir/short/config.json"
start "${set_up[@]}" --reader "$dir/short"
long=(-F "image=@$picture" -F "question=$(printf 'why %.0s' $(seq 60))")
refused 422 prompt-too-long question "a closed question that is too long" "${long[@]}" -F answers=a -F answers=b "$url/v1/diagnoses"
grep -q "make [0-9]* tokens, at most 120" "$dir/body"; ok $? "both numbers are told"
refused 422 prompt-too-long question "an open question that is too long" "${long[@]}" "$url/v1/diagnoses"
refused 422 prompt-too-long question "labels that are too long" "${long[@]}" -F labels=a "$url/v1/diagnoses"
is "$(ask "${diagnose[@]}" "$url/v1/diagnoses")" 200 "a short one is answered"
ends "a server that refused long ones"

# ---- what must not start ----
exits 1 "is it for another base model?" $models --index "$index" --port 0 --adapter a=$tiny-lora
exits 2 "use_adapter is 'b'" $models --index "$index" --port 0 --adapter a=$tiny-lora --use-adapter b
# a case is scored at start: weights that give no numbers are found before anybody asks
mkdir "$dir/nan" && cp $demo/reader/* "$dir/nan/"
head -c 2000 /dev/zero | tr '\0' '\377' | dd of="$dir/nan/model.safetensors" bs=1 seek=$(($(stat -c %s "$dir/nan/model.safetensors") - 2000)) conv=notrunc 2>/dev/null
exits 1 "the scores are not finite numbers" --reader "$dir/nan" --retriever $demo/retriever --index "$index" --port 0
is "$(cat "$dir/out")" "" "and it never listened"
exit $status
