#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train the shipped model from scratch: configs/smol.sh [WORK [SPEECH]]
# configs/speech.sh makes the speech and says what SPEECH is; configs/smol.py has hours
# and results. Run it again to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
work=${1:-runs/smol}

configs/speech.sh "$work/speech" ${2:+"$2"}
$python -m acl_jax.decode_targets --config=configs/smol.py \
  --input="$work/speech/prepared" --output="$work/targets"
$python -m acl_jax.train --config=configs/smol.py --workdir="$work/run" \
  --config.data.train="$work/speech/prepared" --config.data.targets="$work/targets"

mkdir -p "$work/smol/encoder"
cp "$work/run/encoder/adapter_config.json" "$work/smol/encoder"
for file in adapter encoder/adapter_model; do
  $python -m acl_jax.weights.halve --input="$work/run/$file.safetensors" \
    --output="$work/smol/$file.safetensors"
done
