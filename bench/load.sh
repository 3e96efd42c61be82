#!/usr/bin/env bash
# load.sh [SECONDS] - the server with the demonstration model under load: /livez, cases from 16 clients, memory over 10,000
# distinct pictures, and how fast a full queue refuses. Needs wrk and curl; takes about SECONDS (60) + 4 minutes.
set -eu
cd "$(dirname "$0")/.."
B=${B:-build} seconds=${1:-60} demo=models/demo
make --no-print-directory "$B/jomed" "$B/bench/make_images" build/demo-index/manifest.json >/dev/null
dir=$(mktemp -d) server=
stop() { [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null || :; wait "$server" 2>/dev/null || :; }; server=; }
trap 'stop; rm -rf "$dir"' EXIT
serve() { # more options of jomed serve
    : >"$dir/out" # or the address of the server before could be read
    "$B/jomed" serve --reader $demo/reader --retriever $demo/retriever --index build/demo-index --port 0 "$@" >"$dir/out" 2>"$dir/err" &
    server=$!
    url=
    for _ in $(seq 300); do
        url=$(sed -n 's/^listening on //p' "$dir/out")
        [ -z "$url" ] || return 0
        sleep 0.1
    done
    cat "$dir/err"; exit 1
}
rss() { awk '/^VmRSS/ {print $2 / 1024}' "/proc/$server/status"; }
peak() { awk '/^VmHWM/ {print $2 / 1024}' "/proc/$server/status"; }
question="Does this breast ultrasound image show signs of cancer?"
cases() { wrk -t $(($1 < 2 ? 1 : 2)) -c "$1" -d "$2" --timeout 60s -s bench/load.lua "$url" -- "$3" "$question" Yes No | tail -n 1; }

mkdir "$dir/images"
"$B/bench/make_images" 10000 "$dir/images" $demo/synthetic/*/test/*.png
ls "$dir"/images/*.png >"$dir/distinct"
ls $demo/synthetic/breast/test/*.png >"$dir/few"

echo "== one case on one core, alone (wall, ms): median of the stages' totals over 200 cases"
serve --workers 1 --threads 1 --cache-mb 0
for f in $(head -n 200 "$dir/distinct"); do
    curl -sS -F image=@"$f" -F question="$question" -F answers=Yes -F answers=No "$url/v1/diagnoses"; echo
done | grep -o '"total":[0-9.]*' | cut -d: -f2 | sort -n | awk '{v[NR] = $1} END {print "no cache: median", v[int((NR + 1) / 2)], "p95", v[int(NR * 0.95)]}'
stop
serve --workers 1 --threads 1
for pass in 1 2; do
    for f in $(head -n 60 "$dir/few"); do
        curl -sS -F image=@"$f" -F question="$question" -F answers=Yes -F answers=No "$url/v1/diagnoses"; echo
    done >"$dir/pass$pass"
done
grep -o '"total":[0-9.]*' "$dir/pass2" | cut -d: -f2 | sort -n | awk '{v[NR] = $1} END {print "all prefixes cached: median", v[int((NR + 1) / 2)], "p95", v[int(NR * 0.95)]}'
stop

echo "== wrk on /livez, 16 connections, 10 s"
serve
wrk -t 2 -c 16 -d 10 "$url/livez" | grep -E 'Requests/sec|Non-2xx|Socket errors' || :

echo "== 10,000 distinct pictures, 8 clients at a time; resident MB"
cases 8 20s "$dir/few" >/dev/null # caches and arenas reach their size
echo "before $(rss)"
for i in 0 1 2 3 4; do
    sed -n "$((i * 2000 + 1)),$((i * 2000 + 2000))p" "$dir/distinct" |
        xargs -P 8 -n 1 sh -c 'curl -sS -o /dev/null -w "%{http_code}\n" -F image=@"$2" -F question="$1" -F answers=Yes -F answers=No "$0/v1/diagnoses"' "$url" "$question" |
        sort | uniq -c | sed 's/^/    status:/'
    echo "after $(((i + 1) * 2000)) pictures $(rss), peak $(peak)"
done

echo "== 16 clients of /v1/diagnoses, $seconds s, distinct pictures (warm passages: what repeats is cached)"
before=$(rss)
cases 16 "${seconds}s" "$dir/distinct"
echo "resident MB before $before, after $(rss)"
echo "== 1 client, 20 s, for one core's case time under the same conditions"
stop
serve --workers 1 --threads 1
cases 1 10s "$dir/few" >/dev/null
cases 1 20s "$dir/distinct"
stop

echo "== a full queue: 1 worker, 2 waiting, 32 clients; time of the 503s (ms)"
serve --workers 1 --threads 1 --queue 2
for i in $(seq 32); do
    (for _ in $(seq 20); do
        curl -sS -o /dev/null -w '%{http_code} %{time_total}\n' -F image=@$demo/synthetic/breast/test/0000.png -F question="$question" -F answers=Yes -F answers=No "$url/v1/diagnoses"
    done) &
    pids="${pids:-} $!"
done >"$dir/full"
wait $pids
awk '$1 == 503 {v[++n] = $2 * 1000} $1 != 503 && $1 != 200 {bad++} END {m = 0; for (i = 1; i <= n; i++) if (v[i] > m) m = v[i]
    s = 0; for (i = 1; i <= n; i++) s += v[i]; printf "as curl sees it: %d answers 503: mean %.2f ms, worst %.2f ms; %d other failures\n", n, n ? s / n : 0, m, bad}' "$dir/full"
# 32 curls compete for the cores with the server; its own log tells what it took from the head to the last byte
grep '"status": 503' "$dir/err" | sed 's/.*"total_ms": \([0-9.]*\).*/\1/' | sort -n | awk '{v[NR] = $1} END {if (NR) print "as the server logs it: median", v[int((NR + 1) / 2)], "p99", v[int(NR * 0.99)], "worst", v[NR], "ms"}'
