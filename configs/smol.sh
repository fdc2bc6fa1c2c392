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
# CTC twice: the second time from the result of the first, with a smaller step.
$python -m acl_jax.train --config=configs/smol.py --workdir="$work/first" \
  --config.data.train="$work/prepared" --config.response.steps=0
mkdir -p "$work/second"
ln -sfn ../first/frames "$work/second/frames"
$python -m acl_jax.train --config=configs/smol.py --workdir="$work/second" \
  --config.data.train="$work/prepared" --config.response.steps=0 \
  --config.init_from="$work/first" --config.ctc.steps=1300 \
  --config.ctc.peak_lr=8e-4 --config.ctc.warmup_steps=50
$python -c 'import sys; import numpy as np
from acl_jax.weights.adapter import load_adapter, save_adapter
save_adapter(sys.argv[2], load_adapter(sys.argv[1]), np.float16)' \
  "$work/second/adapter.safetensors" "$work/smol.safetensors"
