#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the shipped adapter from nothing; see configs/smol.py for hours and figures.
# Needs Debian's wordnet-base, flite and espeak-ng, and 6 GB of disk. Run again to go on.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=${1:-runs/smol}
mkdir -p "$work/speech"

$python -m data_pipeline.sentences --output="$work/lines"
head -n 14000 "$work/lines.txt" > "$work/train.txt"
for _ in 1 2; do
  $python -c 'import json, sys; [print(json.loads(l)["text"]) for l in sys.stdin]' \
    < data_pipeline/recordings/manifest.jsonl
done > "$work/prompts.txt"

natural=flite:slt,flite:slt,flite:slt,flite:slt,flite:awb,flite:awb,flite:awb,flite:awb
robots=espeak-ng:en-us+f2,espeak-ng:en-us+f4,espeak-ng:en-us+m1,espeak-ng:en-us+m3
accents=espeak-ng:en-gb+f3,espeak-ng:en-gb+m5,espeak-ng:en-gb-scotland+m7,espeak-ng:en-us+linda
$python -m data_pipeline.synthesize --input="$work/train.txt" \
  --output="$work/speech/speech" \
  --voices="$natural,flite:kal16,flite:kal16,$robots,$accents"
$python -m data_pipeline.synthesize --input="$work/prompts.txt" --seed=1 \
  --output="$work/speech/prompts" \
  --voices="flite:slt,flite:slt,flite:awb,flite:awb,flite:kal16,$robots"
cp -r --no-clobber data_pipeline/recordings "$work/speech/real"

$python -m data_pipeline.join --input='speech,prompts,real*4' \
  --output="$work/speech/manifest.jsonl"
$python -m data_pipeline.prepare --corpus=manifest \
  --input="$work/speech/manifest.jsonl" --output="$work/prepared"
awk 'NR % 17 == 0' "$work/speech/manifest.jsonl" > "$work/speech/answered.jsonl"
$python -m acl_jax.decode_targets --config=configs/smol.py \
  --input="$work/speech/answered.jsonl" --output="$work/targets"
$python -m acl_jax.train --config=configs/smol.py --workdir="$work/train" \
  --config.data.train="$work/prepared" --config.data.targets="$work/targets"
