#!/usr/bin/env bash
# demo.sh - `make demo`: index the demonstration pictures, serve them on loopback, ask about one that is not among them, and
# show the answer with the pairs it rests on. Everything in it is ours: no patient stands behind a picture.
set -eu
cd "$(dirname "$0")/.."
jomed=${B:-build}/jomed demo=models/demo index=demo-index
picture=$demo/synthetic/retina/test/0028.png
question="what is the severity of diabetic retinopathy?"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

# Built again only when the program or the retriever is newer: an index belongs to the retriever that made it.
if [ ! -f $index/manifest.json ] || [ $demo/retriever/model.safetensors -nt $index/manifest.json ] || [ "$jomed" -nt $index/manifest.json ]; then
    say "1. An index of 720 pictures and their captions"
    "$jomed" index build --force --retriever $demo/retriever --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --out $index
else
    say "1. The index of 720 pictures and their captions is there: $index"
fi

say "2. A server on loopback"
dir=$(mktemp -d) server=
stop() { # the server first: it must not outlive this script
    if [ -n "$server" ]; then kill -TERM "$server" 2>/dev/null || :; wait "$server" 2>/dev/null || :; fi
    rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT TERM
"$jomed" serve --reader $demo/reader --retriever $demo/retriever --index $index --port 0 --drain-grace-ms 0 >"$dir/out" 2>"$dir/err" &
server=$!
url=
for _ in $(seq 300); do
    url=$(sed -n 's/^listening on //p' "$dir/out")
    [ -z "$url" ] || break
    if ! kill -0 "$server" 2>/dev/null; then echo "the server did not start:" >&2; cat "$dir/err" >&2; exit 1; fi
    sleep 0.1
done
[ -n "$url" ] || { echo "the server did not start within 30 s" >&2; exit 1; }
echo "$url"

say "3. A question about a picture that is not in the index"
cat <<EOF
curl -sS -F image=@$picture -F question="$question" \\
     -F answers=0 -F answers=1 -F answers=2 -F answers=3 -F answers=4 $url/v1/diagnoses | jomed show

EOF
curl -sS -F "image=@$picture" -F "question=$question" -F answers=0 -F answers=1 -F answers=2 -F answers=3 -F answers=4 \
     "$url/v1/diagnoses" | "$jomed" show --question "$question"
say "The server stops. README.md says how to use your own model and pictures."
