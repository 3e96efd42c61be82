#!/usr/bin/env bash
# test_bad_input.sh - pictures, indexes and weights that are not as they should be, with the demonstration model: status, problem
# and field over HTTP; or the server does not start, and says which file and tensor. Fields of a request are in tests/server.
. "$(dirname "$0")/serve.sh"
need_index
corpus=tests/corpus/image
picture=$demo/synthetic/breast/test/0000.png
fields=(-F 'question=Is this breast ultrasound malignant?' -F answers=Yes -F answers=No)

# ---- pictures ----
start $models --index "$index" --drain-grace-ms 0
bad_picture() { # status, slug, name, file: both routes, both forms of body
    refused "$1" "$2" image "$3" -F "image=@$4;filename=x" "${fields[@]}" "$url/v1/diagnoses"
    refused "$1" "$2" image "$3, to retrieve" -F "image=@$4;filename=x" "$url/v1/retrievals"
    printf '{"image": "%s", "question": "q", "answers": ["Yes", "No"]}' "$(base64 -w0 "$4")" >"$dir/json"
    refused "$1" "$2" image "$3, in JSON" -H 'Content-Type: application/json' --data-binary "@$dir/json" "$url/v1/diagnoses"
}
jpeg() { # bytes of a JPEG of height and width, each as \xHH\xHH: the corpus' picture with another frame header
    local n; n=$(LC_ALL=C grep -obUaP '\xff\xc0\x00\x11\x08' $corpus/sides_65535.jpg | head -n 1 | cut -d: -f1)
    head -c $((n + 5)) $corpus/sides_65535.jpg; printf '%b' "$1"; tail -c +$((n + 10)) $corpus/sides_65535.jpg
}
jpeg '\x00\x00\x00\x00' >"$dir/0x0.jpg"
jpeg '\xff\xff\xff\xff' >"$dir/65535x65535.jpg"
cmp -s "$dir/65535x65535.jpg" $corpus/sides_65535.jpg; ok $? "a picture's size is changed where it stands"
head -c 300 $picture >"$dir/cut.png"
{ head -c 60 $picture; head -c 40 /dev/zero; tail -c +101 $picture; } >"$dir/corrupt.png"
head -c $(($(wc -c <$corpus/ycc420.jpg) - 40)) $corpus/ycc420.jpg >"$dir/cut.jpg"
LC_ALL=C sed "s/\\xff\\xc4\\(..\\)\\(.\\)./\\xff\\xc4\\1\\2\\xff/" $corpus/ycc420.jpg >"$dir/corrupt.jpg" # 255 Huffman codes of one bit
bad_picture 415 image-unsupported "a text" $corpus/text
bad_picture 422 image-undecodable "a PNG of 0 x 0" $corpus/no_pixels.png
bad_picture 422 image-undecodable "a JPEG of 0 x 0" "$dir/0x0.jpg"
bad_picture 413 image-too-large "a PNG of 65535 x 65535" $corpus/sides_65535.png
bad_picture 413 image-too-large "a JPEG of 65535 x 65535" "$dir/65535x65535.jpg"
bad_picture 413 image-too-large "a decompression bomb" $corpus/bomb_20000.png
{ cat $corpus/bomb_20000.png; head -c 30000000 /dev/zero; } >"$dir/large.png"
sent=$(ask -w '%{size_upload}' -F "image=@$dir/large.png" "${fields[@]}" "$url/v1/diagnoses")
grep -q 'image-too-large' "$dir/body" && [ "$sent" -lt 25000000 ]; ok $? "30 MB are stopped by the picture's header (sent: $sent bytes)"
bad_picture 422 image-undecodable "a truncated PNG" "$dir/cut.png"
bad_picture 422 image-undecodable "a corrupt PNG" "$dir/corrupt.png"
bad_picture 422 image-undecodable "a truncated JPEG" "$dir/cut.jpg"
bad_picture 422 image-undecodable "a corrupt JPEG" "$dir/corrupt.jpg"
refused 400 field-missing image "an empty file" -F "image=@$corpus/empty" "${fields[@]}" "$url/v1/diagnoses"
# 1 x 1 is a picture: both towers resize it
is "$(ask -F "image=@$corpus/one_pixel.jpg" "${fields[@]}" "$url/v1/diagnoses")" 200 "a JPEG of 1 x 1 is diagnosed"
has "$(cat "$dir/body")" '"probabilities":[{' "a JPEG of 1 x 1 has an answer"
! grep -qi '[:,[]-\?\(nan\|inf\)' "$dir/body"; ok $? "a JPEG of 1 x 1 gives numbers"

# ---- fields of open and multi-label questions: no request reaches the reader ----
what=(-F "image=@$picture" -F 'question=What is seen?')
bad_field() { refused 422 "$1" "$2" "$3" "${what[@]}" "${@:4}" "$url/v1/diagnoses"; } # slug, field, name, fields
bad_field field-conflict labels "labels beside answers" "${fields[@]:2}" -F labels=a
bad_field field-conflict max_new_tokens "an open question's option beside answers" "${fields[@]:2}" -F max_new_tokens=5
bad_field field-conflict beams "an open question's option beside labels" -F labels=a -F beams=2
bad_field field-conflict stream "a stream of a closed answer" "${fields[@]:2}" -F stream=true
bad_field field-out-of-range max_new_tokens "no new tokens" -F max_new_tokens=0
bad_field field-out-of-range max_new_tokens "too many new tokens" -F max_new_tokens=513
bad_field field-out-of-range beams "too many beams" -F beams=9
bad_field field-out-of-range repetition_penalty "a penalty below one" -F repetition_penalty=0.5
bad_field field-out-of-range repetition_penalty "a penalty above ten" -F repetition_penalty=1e1000
bad_field labels-too-few labels "an empty list of labels" -F 'labels=[]'
bad_field label-empty labels "an empty label" -F labels=a -F labels=
bad_field label-duplicate labels "a label twice" -F labels=a -F labels=a
bad_field label-too-long labels "a long label" -F "labels=$(head -c 201 /dev/zero | tr '\0' x)"
# shellcheck disable=SC2046
bad_field labels-too-many labels "65 labels" $(seq -f '-F labels=%g' 65)
refused 400 field-type repetition_penalty "a penalty in words" "${what[@]}" -F repetition_penalty=much "$url/v1/diagnoses"
refused 400 field-type stream "a stream in words" "${what[@]}" -F stream=yes "$url/v1/diagnoses"
refused 400 field-unknown labels "labels of a retrieval" -F "image=@$picture" -F labels=a "$url/v1/retrievals"
refused 406 not-acceptable '' "only a stream is taken, and there is none" -H 'Accept: text/event-stream' "${what[@]}" "${fields[@]:2}" "$url/v1/diagnoses"
is "$(ask -F "image=@$picture" "${fields[@]}" "$url/v1/diagnoses")" 200 "the server answers after all these requests"
peak=$(awk '$1 == "VmHWM:" {print $2}' /proc/$pid/status)
# 20000 x 20000 x 3 bytes are 1.2 GB: whatever a sanitizer adds, that was never taken
[ "$peak" -lt 1000000 ]; ok $? "a bomb is refused by its header (peak $peak kB)"
ends "a server that saw bad pictures"

# ---- small, short and damaged indexes ----
mkdir -p "$dir/pictures/breast/train"
cp $demo/synthetic/breast/train/000[012].png "$dir/pictures/breast/train"
head -n 3 $demo/synthetic/index.jsonl >"$dir/three.jsonl"
build() { "$jomed" index build --quiet --retriever $demo/retriever "$@" >"$dir/out" 2>"$dir/err"; }
build --jsonl "$dir/three.jsonl" --images "$dir/pictures" --out "$dir/three"; ok $? "an index of three is built"
build --jsonl "$dir/three.jsonl" --images "$dir/pictures" --embed-images --out "$dir/whole"; ok $? "an index that holds its pictures is built"
ids() { grep -o '"id":-\?[0-9]*,"heads"' "$dir/body" | grep -o -e '-\?[0-9]*' | sort -n | tr '\n' ' '; }

start $models --index "$dir/three" --drain-grace-ms 0 --cache-mb 0
is "$(ask -F "image=@$picture" -F k=50 "${fields[@]}" "$url/v1/diagnoses")" 200 "k larger than the index"
is "$(ids)" "0 1 2 " "k larger than the index gives all of it once"
has "$(cat "$dir/body")" '"k":50' "and says what k was asked for"
is "$(ask -F "image=@$picture" -F k=50 "$url/v1/retrievals")" 200 "k larger than the index, to retrieve"
is "$(ids)" "0 1 2 " "all of a small index is retrieved once"

rm "$dir/pictures/breast/train/0001.png"
# k=1 finds passages 0 and 2, whose pictures are there
is "$(ask -F "image=@$picture" -F k=1 "${fields[@]}" "$url/v1/diagnoses")" 200 "a picture that is lost, but not retrieved, is not missed"
refused 500 passage-image-missing '' "a lost picture, retrieved" -F "image=@$picture" -F k=3 "${fields[@]}" "$url/v1/diagnoses"
! grep -q "$dir\|0001" "$dir/body"; ok $? "the client is not told the server's paths"
grep -q '"route": "/v1/diagnoses".*"problem": "passage-image-missing".*"text": "passage 1: image .*0001.png: No such file' "$dir/log"
ok $? "the log names the passage and its file"
refused 500 passage-image-missing '' "a lost picture, asked for" "$url/v1/passages/1/image"
is "$(ask "$url/v1/passages/1")" 200 "the passage without its picture"
is "$(ask "$url/v1/passages/2/image")" 200 "another passage's picture"
is "$(ask -F "image=@$picture" -F k=3 "$url/v1/retrievals")" 200 "retrieval reads no pictures of the index"
cp "$dir/three.jsonl" "$dir/pictures/breast/train/0001.png"
refused 500 passage-image-missing '' "a picture that was replaced by another file" -F "image=@$picture" -F k=3 "${fields[@]}" "$url/v1/diagnoses"
grep -q 'passage 1: image .*0001.png has changed since' "$dir/log"; ok $? "the log says that the picture has changed"
head -c "$(wc -c <$demo/synthetic/breast/train/0001.png)" /dev/zero >"$dir/pictures/breast/train/0001.png"
refused 500 passage-image-undecodable '' "a picture that was overwritten" -F "image=@$picture" -F k=3 "${fields[@]}" "$url/v1/diagnoses"
grep -q 'the image of passage 1 cannot be decoded' "$dir/log"; ok $? "the log names the passage that cannot be decoded"
is "$(ask "$url/readyz")" 200 "one lost picture does not make the server unready"
is "$(ask -F "image=@$picture" -F k=1 "${fields[@]}" "$url/v1/diagnoses")" 200 "other pairs are still read"
ends "a server that lost a picture"

start $models --index "$dir/whole" --drain-grace-ms 0
is "$(ask -F "image=@$picture" -F k=3 "${fields[@]}" "$url/v1/diagnoses")" 200 "an index that holds its pictures needs no files"
ends "a server whose index holds its pictures"

# 64 lists, of which one is searched: about eleven of the 720 passages, the rest of FAISS's list is -1
build --jsonl $demo/synthetic/index.jsonl --images $demo/synthetic --factory IVF64,Flat --out "$dir/lists"; ok $? "an index of 64 lists is built"
start $models --index "$dir/lists" --drain-grace-ms 0
is "$(ask -F "image=@$picture" -F k=50 "${fields[@]}" "$url/v1/diagnoses")" 200 "a short list of results"
n=$(ids | wc -w); [ "$n" -ge 1 ] && [ "$n" -lt 60 ]; ok $? "fewer pairs than k of each head ($n)"
! grep -q '"id":-1' "$dir/body"; ok $? "no passage -1 is shown"
grep -o '"weight":[0-9.e-]*' "$dir/body" | cut -d: -f2 | awk '{s += $1} END {exit !(s > 0.99999 && s < 1.00001)}'; ok $? "the weights of a short list add up to one"
ends "a server with a short list"

# ---- what must not start ----
: >"$dir/none.jsonl"
build --jsonl "$dir/none.jsonl" --images $demo/synthetic --out "$dir/empty"; is $? 1 "an index of nothing is not built"
has "$(cat "$dir/err")" "no item could be used" "and the builder says so"
[ ! -e "$dir/empty" ]; ok $? "and nothing is left that looks like an index"
no_start() { exits 1 "$@" --port 0; }
no_start "no index here" $models --index "$dir/empty"
like() { rm -rf "$dir/bad"; cp -r "$1" "$dir/bad"; }
like "$index"; sed -i -E 's/("n_passages": *)[0-9]+/\10/' "$dir/bad/manifest.json"
no_start "the index is empty" $models --index "$dir/bad"
like "$index"; sed -i -E 's/("retriever_hash": *")[0-9a-f]{8}/\100000000/' "$dir/bad/manifest.json"
no_start "another retriever" $models --index "$dir/bad"
for head in image text; do
    like "$index"; truncate -s 1000 "$dir/bad/$head.faiss"; no_start "$head.faiss" $models --index "$dir/bad"
    like "$index"; printf 'XXXX' | dd of="$dir/bad/$head.faiss" conv=notrunc 2>/dev/null; no_start "$head.faiss" $models --index "$dir/bad"
    like "$index"; rm "$dir/bad/$head.faiss"; no_start "$head.faiss" $models --index "$dir/bad"
done
like "$index"; truncate -s 5000 "$dir/bad/passages.db"; no_start "passages.db" $models --index "$dir/bad"
like "$index"; cp "$dir/three/passages.db" "$dir/bad/"; no_start "passages.db" $models --index "$dir/bad"

# Weights: the header of a copy is changed in place, to text of the same length.
bad_weight() { # part of the model, tensor, sed expression on its entry
    like $demo/"$1"
    local t=${2//./\\.}
    LC_ALL=C sed -i -E "1s/(\"$t\":\{[^}]*\})/\n\1\n/;" "$dir/bad/model.safetensors"
    LC_ALL=C sed -i -E "2$3" "$dir/bad/model.safetensors"
    LC_ALL=C sed -i -e '1{N;N;s/\n//g}' "$dir/bad/model.safetensors"
    [ "$(wc -c <"$dir/bad/model.safetensors")" -eq "$(wc -c <$demo/"$1"/model.safetensors)" ] &&
        ! cmp -s "$dir/bad/model.safetensors" $demo/"$1"/model.safetensors; ok $? "the entry of $2 is changed in place"
}
for part in reader retriever; do
    if [ $part = reader ]; then t=model.layers.0.mlp.down_proj.weight given="--retriever $demo/retriever --reader"
    else t=text_model.transformer.embeddings.word_embeddings.weight given="--reader $demo/reader --retriever"; fi
    told() { no_start "$1" $given "$dir/bad" --index "$index"; has "$(cat "$dir/err")" "model.safetensors" "and names the file"; has "$(cat "$dir/err")" "$t" "and names the tensor"; }
    bad_weight $part $t 's/"shape":\[([0-9]+),([0-9]+)\]/"shape":[\2,\1]/'; told "shape"
    bad_weight $part $t 's/"dtype":"BF16"/"dtype": "I16"/'; told "wanted F32, F16 or BF16"
    bad_weight $part $t 's/weight":/weighs":/'; told "$t"
    like $demo/$part; truncate -s -1 "$dir/bad/model.safetensors"; no_start "model.safetensors" $given "$dir/bad" --index "$index"
    like $demo/$part; truncate -s 100000 "$dir/bad/model.safetensors"; no_start "model.safetensors" $given "$dir/bad" --index "$index"
    like $demo/$part; rm "$dir/bad/model.safetensors"; no_start "$dir/bad" $given "$dir/bad" --index "$index"
done
exit $status
