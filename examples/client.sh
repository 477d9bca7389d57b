#!/bin/sh
# Every operation and every form of request and answer, with curl: sh examples/client.sh FACE.png [FOLDER]
# URL is the server's address, TOKEN its token, if it needs one. Both servers accept all of these requests:
#   URL=http://127.0.0.1:8080 TOKEN=$(python3 -c 'import json; print(json.load(open("key_file.json"))["inference"]["key"])')
# -d alone would send JSON as a form: set the Content-Type.
set -eu

FACE=$1
OUT=${2:-out}
URL=${URL:-http://127.0.0.1:8080}
TOKEN=${TOKEN:-none}
ASK=$URL/predictions/latentpatch
AUTH="Authorization: Bearer $TOKEN"
JSON="Content-Type: application/json"
mkdir -p "$OUT"
curl() { command curl --silent --show-error --fail-with-body --header "$AUTH" "$@"; }

# Sources, ranges of settings, limits, schema.
curl "$ASK" -o "$OUT/info.json"

# One picture, in each form: by the Accept header or by a field.
curl "$ASK" -H "$JSON" -d '{"seed": 7}' -o "$OUT/seven.png"
curl "$ASK" -H "$JSON" -d '{"seed": 7}' -H 'Accept: image/jpeg' -o "$OUT/seven.jpg"
curl "$ASK" -H "$JSON" -d '{"seed": 7, "image_format": "webp"}' -o "$OUT/seven.webp"
curl "$ASK" -H "$JSON" -d '{"seed": 7}' -H 'Accept: application/json' -o "$OUT/seven.json"

# Several: a zip of pictures and report.json, or JSON with the pictures in base64.
curl "$ASK" -H "$JSON" -d '{"n": 4, "seed": 7, "settings": {"patch_size": 4}}' -o "$OUT/four.zip"
curl "$ASK" -H "$JSON" -d '{"n": 2, "answer": "json", "image_format": "jpeg"}' -o "$OUT/two.json"

# The sources of the picture of seed 7, as a map and as numbers.
curl "$ASK" -H "$JSON" -d '{"operation": "provenance", "seed": 7}' -o "$OUT/seven-map.png"
curl "$ASK" -H "$JSON" -d '{"operation": "provenance", "seed": 7, "answer": "json"}' -o "$OUT/seven-map.json"

# Uploads as a form: pictures as files, the rest as fields.
curl "$ASK" -F operation=generate -F seed=3 -F reference=@"$FACE" -o "$OUT/like-it.png"
curl "$ASK" -F operation=inpaint -F image=@"$FACE" -F box='[32, 48, 96, 80]' -F n=3 -o "$OUT/filled.zip"
curl "$ASK" -F operation=edit -F image=@"$FACE" -F donor=@"$OUT/seven.png" -F box='[32, 48, 96, 80]' -o "$OUT/edited.png"

# Tasks on one picture, without the model: textures of any size, and a picture from the patches of two.
curl "$ASK" -F task=texture -F pictures=@"$FACE" -F size='[64, 96]' -F n=3 -o "$OUT/textures.zip"
curl "$ASK" -F task=reshuffle -F pictures=@"$FACE" -F pictures.1=@"$OUT/seven.png" -F size='[128, 128]' -o "$OUT/reshuffled.png"

# A bare picture: through the autoencoder, or with the other fields in a header.
curl "$ASK" -H 'Content-Type: image/png' --data-binary @"$FACE" -o "$OUT/reconstructed.png"
curl "$ASK" -H 'Content-Type: image/png' -H 'LatentPatch-Request: {"operation": "generate", "seed": 3}' --data-binary @"$FACE" -o "$OUT/like-it-too.png"

# A picture within JSON.
printf '{"operation": "reconstruct", "image": "%s"}' "$(base64 < "$FACE" | tr -d '\n')" | curl "$ASK" -H "$JSON" --data-binary @- -o "$OUT/reconstructed-too.png"

# The Open Inference Protocol.
curl "$URL/v2/models/latentpatch/infer" -H "$JSON" -d '{"id": "1", "inputs": [{"name": "seeds", "datatype": "INT64", "shape": [2], "data": [5, 6]}], "parameters": {"operation": "generate"}}' -o "$OUT/tensors.json"
