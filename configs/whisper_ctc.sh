#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train the shipped CTC adapter from scratch; see configs/whisper_ctc.py for hours and results.
# Requires Debian's wordnet-base, flite and espeak-ng, and 15 GB of disk. Run it again to
# resume.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=${1:-runs/whisper_ctc}
mkdir -p "$work/speech"

repeat() { for _ in $(seq "$1"); do printf '%s,' "$2"; done; }
natural=$(repeat 8 flite:slt)$(repeat 8 flite:awb)$(repeat 4 flite:kal16)
robots=$(printf 'espeak-ng:%s,' en-us+{f1,f2,f4,m1,m2,m3,m7,linda,Annie,Andy} \
  en-gb+{f3,m5} en-gb-scotland+m7 en-029+f3 en-gb-x-rp+m1 en-gb-x-gbclan+f2)
voices=$natural${robots%,}

$python -m data_pipeline.sentences --count=45000 --output="$work/lines"
for _ in 1 2; do
  $python -c 'import json, sys; [print(json.loads(l)["text"]) for l in sys.stdin]' \
    < data_pipeline/recordings/manifest.jsonl
done > "$work/prompts.txt"
$python -m data_pipeline.synthesize --input="$work/lines.txt" \
  --output="$work/speech/speech" --voices="$voices"
$python -m data_pipeline.synthesize --input="$work/prompts.txt" --seed=1 \
  --output="$work/speech/prompts" --voices="$voices"
cp -r --no-clobber data_pipeline/recordings "$work/speech/real"

$python -m data_pipeline.join --input='speech,prompts,real*4' \
  --output="$work/speech/manifest.jsonl"
$python -m data_pipeline.prepare --corpus=manifest \
  --input="$work/speech/manifest.jsonl" --output="$work/prepared"
$python -m acl_jax.train --config=configs/whisper_ctc.py --workdir="$work" \
  --config.data.train="$work/prepared" --config.response.steps=0
$python -m acl_jax.weights.halve --input="$work/adapter.safetensors" \
  --output="$work/whisper_ctc/adapter.safetensors"
