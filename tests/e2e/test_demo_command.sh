#!/usr/bin/env bash
# test_demo_command.sh - fails when what `make demo` runs (tools/demo.sh) does not index, serve, ask over HTTP and show question,
# answer, probabilities, pairs with scores and weights, and whether they agree, or when README shows another answer. TAP.
set -u
command -v curl >/dev/null || { echo "ok # SKIP curl is not installed"; exit 0; }
out=$(mktemp); trap 'rm -f "$out"' EXIT
failed=0
ok() { if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; failed=1; sed 's/^/# /' "$out"; fi; }
B=$JOMED_BUILD tools/demo.sh >"$out" 2>&1 </dev/null; ok $? "the demonstration ends with an error"
grep -q "^http://127.0.0.1:[0-9]*$" "$out"; ok $? "no server's address is shown"
# the block of README from the question to the line on agreement, but for the time it took
sed -n '/^Question  what is/,/^  THE PAIRS DISAGREE/p' README.md | sed 's/[0-9.]* ms\.$//' >"$out.want"
sed -n '/^Question  what is/,/^  THE PAIRS DISAGREE/p' "$out" | sed 's/[0-9.]* ms\.$//' >"$out.got"
[ "$(wc -l <"$out.got")" -gt 15 ] && cmp -s "$out.want" "$out.got"; ok $? "README's answer is not the one that is given"
rm -f "$out.want" "$out.got"
exit $failed
