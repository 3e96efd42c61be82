#!/usr/bin/env bash
# test_stream.sh - answers sent as they are made, with real models: a stream is what the same request gets whole, to the last bit, also
# among sixteen; failures by their status or their event; a client that leaves. What needs no model is in tests/server/test_stream.c.
. "$(dirname "$0")/serve.sh"
need_index
picture=$demo/synthetic/retina/test/0028.png
# The fixture's reader has random weights: it talks until it is stopped. The demonstration's gives short answers.
tiny=tests/fixtures/qwen2vl-tiny
question=(-F "image=@$picture" -F 'question=What does this image show?')

events() { curl -s -N -D "$dir/head" -o "$dir/events" -w '%{http_code}' "$@"; } # prints the status
tokens() { sed -nE '/^event: token$/{n;s/^data: \{"text":"(.*)"\}$/\1/p}' "$1" | tr -d '\n'; } # as they are escaped in JSON
last() { tail -n 3 "$1" | sed -n 's/^data: //p'; }
names() { sed -n 's/^event: //p' "$1" | uniq | tr '\n' ' '; }
text() { sed -E 's/.*"answer":"(([^"\\]|\\.)*)".*/\1/' "$1"; }
in_flight() { curl -s "$url/metrics" | awk '$1 == "jomed_inflight_requests" {print $2}'; }

for reader in $demo/reader $tiny; do
    start --reader $reader --retriever $demo/retriever --index "$index" --drain-grace-ms 0 --deadline-ms 120000
    for more in "k=1" "k=2" "beams=3" "mode=reference" "repetition_penalty=1.3"; do
        name="$reader, $more"
        is "$(ask "${question[@]}" -F "$more" -F max_new_tokens=12 "$url/v1/diagnoses")" 200 "$name: an open question is answered"
        text "$dir/body" >"$dir/whole"
        answer "$dir/body" >"$dir/want"
        is "$(events "${question[@]}" -F "$more" -F max_new_tokens=12 -F stream=true "$url/v1/diagnoses")" 200 "$name: and streamed"
        is "$(names "$dir/events")" "token answer " "$name: tokens, then the answer"
        last "$dir/events" >"$dir/last"
        is "$(answer "$dir/last")" "$(cat "$dir/want")" "$name: the stream's answer has the same bits"
        is "$(tokens "$dir/events")" "$(cat "$dir/whole")" "$name: its tokens are the answer's text"
    done
    grep -qi '^content-type: text/event-stream' "$dir/head"; ok $? "$reader: the media type of events"
    grep -qi '^x-accel-buffering: no' "$dir/head"; ok $? "$reader: proxies are told not to hold it back"
    [ "$reader" = $tiny ] || ends "$reader"
done

# ---- the reader that talks on ----
long=("${question[@]}" -F max_new_tokens=40)
is "$(events -H 'Accept: text/event-stream' "${long[@]}" "$url/v1/diagnoses")" 200 "a stream by the Accept header"
cp "$dir/events" "$dir/long"
n=$(grep -c '^event: token$' "$dir/long"); [ "$n" -gt 10 ]; ok $? "a long answer has many events ($n)"
for i in $(seq 16); do
    curl -s -N -o "$dir/events.$i" "${long[@]}" -F stream=true "$url/v1/diagnoses" &
    pids="${pids:-} $!"
done
# shellcheck disable=SC2086
wait $pids
want=$(answer "$dir/long") same=0
for i in $(seq 16); do [ "$(answer "$dir/events.$i")" != "$want" ] || same=$((same + 1)); done
is $same 16 "sixteen streams at once have the same bits"

curl -s -N "${question[@]}" -F max_new_tokens=512 -F stream=true "$url/v1/diagnoses" | head -n 2 >"$dir/left"
has "$(cat "$dir/left")" 'event: token' "a client reads one event and leaves"
for _ in $(seq 600); do [ "$(in_flight)" != 1 ] || break; sleep 0.05; done
is "$(in_flight)" 1 "its request ends"
grep -q '"status": 499,.*"task": "open"' "$dir/log"; ok $? "and is logged as given up"
is "$(curl -s "$url/metrics" | awk '$1 == "jomed_streams_open" {print $2}')" 0 "no stream is left open"

refused 504 deadline-passed deadline_ms "a deadline before the first token" "${long[@]}" -F stream=true -F deadline_ms=1 "$url/v1/diagnoses"
refused 422 field-conflict stream "a closed answer has no stream" "${question[@]}" -F answers=Yes -F answers=No -F stream=true "$url/v1/diagnoses"
refused 422 adapter-unknown adapter "an unknown adapter, before the first token" "${question[@]}" -F adapter=none-such -F stream=true "$url/v1/diagnoses"
refused 400 field-type stream "a stream neither true nor false" "${question[@]}" -F stream=1 "$url/v1/diagnoses"
! grep -q -e 'What does' -e '"text": *"event' "$dir/log"; ok $? "the log holds nothing of the questions"
curl -s -N -o "$dir/draining" "${long[@]}" -F stream=true "$url/v1/diagnoses" &
reader_pid=$!
while [ ! -s "$dir/draining" ]; do sleep 0.02; done
ends "a server with an open stream"
wait $reader_pid
is "$(answer "$dir/draining")" "$want" "the stream was finished first"
exit $status
