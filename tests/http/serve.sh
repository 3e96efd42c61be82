# serve.sh - read by the scripts of this folder: starts and stops the program as it is run, asks, and checks answers. TAP.
# A sanitizer's report ends the program with a status of its own (tests/run.sh), so every status below is compared exactly.
set -u
jomed=$JOMED_BUILD/jomed demo=models/demo index=${JOMED_DEMO_INDEX:-}
# words: no blank in them; on a GPU: tests/cuda/on_gpu.sh
models="--reader $demo/reader --retriever $demo/retriever ${JOMED_DEVICE:+--device $JOMED_DEVICE}"
models="$models ${JOMED_PRODUCTS:+--products $JOMED_PRODUCTS}"
dir=$(mktemp -d) pid='' url='' code='' status=0
trap '[ -z "$pid" ] || kill -9 $pid 2>/dev/null; rm -rf "$dir"' EXIT
ok() { if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; sed 's/^/# /' "$dir/err" "$dir/log" 2>/dev/null | tail -n 25; status=1; fi; }
is() { if [ "$1" = "$2" ]; then ok 0 "$3"; else ok 1 "$3 (got '$1', wanted '$2')"; fi; }
has() { case $1 in *"$2"*) ok 0 "$3";; *) ok 1 "$3 (got '$1')";; esac; }
exits() { # status, part of stderr, arguments of serve...
    local want=$1 part=$2 got; shift 2
    "$jomed" serve "$@" >"$dir/out" 2>"$dir/err"; got=$?
    is $got "$want" "exit status $want: $part"
    has "$(cat "$dir/err")" "$part" "serve says: $part"
}
start() { # arguments of serve...: sets pid and url
    : >"$dir/out"
    "$jomed" serve --port 0 "$@" >"$dir/out" 2>"$dir/log" &
    pid=$!
    while [ ! -s "$dir/out" ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
    url=$(sed -n 's/^listening on //p' "$dir/out")
    [ -n "$url" ] || ok 1 "the server starts with $*"
}
stop() { # signal: sets code
    kill -"$1" $pid 2>/dev/null; wait $pid; code=$?; pid=''
}
ends() { stop TERM; is $code 0 "$1 ends with status 0"; } # a crash, a leak, a sanitizer's report: another status
ask() { curl -s -o "$dir/body" -w '%{http_code}' "$@"; } # prints the status
answer() { sed -E 's/"(request_id|timings_ms|work)":("[^"]*"|\{[^}]*\})//g' "$@"; } # what must be the same bits
refused() { # status, slug, field or '', name, arguments of curl...
    local want=$1 slug=$2 field=$3 name=$4 got; shift 4
    got="$(ask "$@") $(sed -nE 's/^\{"type":"urn:jomed:problem:([^"]*)".*/\1/p' "$dir/body") $(sed -nE 's/.*,"field":"([^"]*)".*/\1/p' "$dir/body")"
    is "$got" "$want $slug $field" "$name: $want $slug${field:+, field $field}"
}
# The demonstration index, built here where the Makefile has not.
need_index() {
    [ ! -f "$index/manifest.json" ] || return 0
    index=$dir/index
    "$jomed" index build --quiet --retriever $demo/retriever --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --out "$index" 2>"$dir/err"
    ok $? "the demonstration index is built"
}
if ! command -v curl >/dev/null; then echo "ok 1 # SKIP curl is not installed"; exit 0; fi
