#!/usr/bin/env bash
# test_same_bits.sh - a request gives the same probabilities and log-likelihoods, byte for byte, alone and repeated, with a cold, a
# warm, a small and no cache, on one worker or two, and among the requests of sixteen clients. Under ThreadSanitizer this is
# also the test that the workers share nothing they write (make check-threads).
. "$(dirname "$0")/serve.sh"
need_index
N=12 TIMES=${JOMED_SAME_BITS_TIMES:-8}
limits="--drain-grace-ms 0 --deadline-ms 300000" # sixteen wait for two, and a sanitizer makes each slow

# N requests that differ in picture, answers, k and mode: the body of an entry in curl's configuration each.
request() { # number, picture, answers with commas, k, mode
    { printf 'form = "image=@%s/synthetic/%s"\nform = "question=What is seen?"\nform = "k=%s"\nform = "mode=%s"\n' $demo "$2" "$4" "$5"
      # shellcheck disable=SC2086
      printf 'form = "answers=%s"\n' ${3//,/ }; } >"$dir/request$1"
}
i=0
for picture in breast/test/0000 pneumonia/test/0003 retina/test/0028; do
    request $((i += 1)) $picture.png Yes,No 1 paper
    request $((i += 1)) $picture.png normal,benign,malignant,other 4 paper
    request $((i += 1)) $picture.png a,ab,abc,b,0,1,2,3 2 reference
    request $((i += 1)) $picture.png malignant,normal 7 reference
done
is $i $N "there are $N requests"

# So many clients send every request so often, in an order that mixes them; every answer must be the first server's.
crowd() { # clients, times, name of the test
    local t n first=1
    rm -rf "$dir/got"; mkdir "$dir/got"
    for ((t = 0; t < $2; t++)); do
        for ((n = 0; n < N; n++)); do
            local r=$(((n * 7 + t * 5) % N + 1)) # 7 and N have no common factor: each request once
            [ $first = 1 ] || echo next
            first=0
            printf 'silent\nurl = "%s/v1/diagnoses"\noutput = "%s/got/%d.%d"\n' "$url" "$dir" $t $r
            cat "$dir/request$r"
        done
    done >"$dir/crowd"
    curl --silent --parallel --parallel-immediate --parallel-max "$1" -K "$dir/crowd" 2>"$dir/err"
    local bad=0 f
    for f in "$dir"/got/*; do answer "$f" | cmp -s - "$dir/want.${f##*.}" || bad=$((bad + 1)); done
    is "$(ls "$dir/got" | wc -l) $bad" "$((N * $2)) 0" "$3"
}

start $models --index "$index" $limits --workers 1 --threads 1 --cache-mb 0
for ((n = 1; n <= N; n++)); do touch "$dir/want.$n"; done
crowd 1 1 "(answers to compare with)" >"$dir/first"
for ((n = 1; n <= N; n++)); do answer "$dir/got/0.$n" >"$dir/want.$n"; done
is "$(grep -l '"log_likelihoods":\[-' "$dir"/want.* | wc -l)" $N "every request has its answer"
scores=$(cat "$dir"/want.* | grep -o '"log_likelihoods":\[[^]]*\]')
is "$(echo "$scores" | sort -u | wc -l)" "$(echo "$scores" | wc -l)" "no two pairs score alike, so that a mix-up would show"
crowd 1 1 "repeated requests have the same bits"
ends "one worker without a cache"

start $models --index "$index" $limits --workers 2
crowd 16 $TIMES "sixteen clients and a cold cache: the same bits"
crowd 1 1 "one client and a warm cache: the same bits"
crowd 16 $TIMES "sixteen clients and a warm cache: the same bits"
ends "two workers with a cache"

# 1 MiB holds few prefixes: they push each other out
start $models --index "$index" $limits --workers 1 --threads 2 --cache-mb 1
crowd 16 $TIMES "sixteen clients and a cache that is too small: the same bits"
ends "one worker of two threads with a small cache"
exit $status
