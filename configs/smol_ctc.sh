#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train smol_conformer from scratch: speech, the encoder of smol_ctc.py, and its adapter.
# Requires Debian's wordnet-base, flite and espeak-ng, and 10 GB of disk. Run it again to
# resume.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=${1:-runs/smol_ctc}
mkdir -p "$work/speech"

repeat() { for _ in $(seq "$1"); do printf '%s,' "$2"; done; }
voices=$(repeat 2 flite:slt)$(repeat 2 flite:awb)flite:kal16,espeak-ng:en-us

$python -m data_pipeline.sentences --vocabulary=500 --count=20000 --lists=4500 \
  --output="$work/lines"
for seed in 0 1 2; do  # three readings of each line, with voices at random
  $python -m data_pipeline.synthesize --input="$work/lines.txt" --seed=$seed \
    --output="$work/speech/read-$seed" --voices="$voices"
done
$python -m data_pipeline.synthesize --input="$work/lines-held-out.txt" --seed=9 \
  --output="$work/held-out" --voices="$voices"
$python -m data_pipeline.synthesize --input="$work/lines-held-out.txt" --seed=9 \
  --output="$work/held-out-rms" --voices=flite:rms  # an unseen voice
cp -r --no-clobber data_pipeline/recordings "$work/speech/real"
$python -m data_pipeline.join --input='read-0,read-1,read-2,real*4' \
  --output="$work/speech/manifest.jsonl"
$python -m data_pipeline.prepare --input="$work/speech/manifest.jsonl" \
  --output="$work/prepared"
$python -m data_pipeline.prepare --input="$work/held-out/manifest.jsonl" \
  --output="$work/prepared-dev"

$python -m acl_jax.pretrain --config=configs/smol_ctc.py --workdir="$work" \
  --config.data.train="$work/prepared" --config.data.dev="$work/prepared-dev"
$python -m acl_jax.train --config=configs/smol_conformer.py --workdir="$work/adapter" \
  --config.encoder.path="$work/encoder" --config.data.train="$work/prepared"
$python -m acl_jax.evaluate --config=configs/smol_conformer.py \
  --config.encoder.path="$work/encoder" --checkpoint="$work/adapter" \
  --manifest="$work/held-out/manifest.jsonl" --output="$work/report"
$python -m acl_jax.evaluate --config=configs/smol_conformer.py \
  --config.encoder.path="$work/encoder" --checkpoint="$work/adapter" \
  --manifest="$work/held-out-rms/manifest.jsonl" --output="$work/report-rms" \
  --cascade=none
