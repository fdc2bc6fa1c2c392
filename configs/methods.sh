#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train and evaluate the rows of docs/methods.md: configs/methods.sh WORK [ROW…]
# WORK/speech is made by configs/speech.sh, WORK/targets by decode_targets. Each row is
# one command below. Run it again to resume.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 WORK [ROW...]" >&2; exit 1; }
work=$(realpath "$1"); shift
cd "$(dirname "$0")/.."
python=.venv/bin/python
rows=("$@")
[ $# -gt 0 ] || rows=({linear,ultravox}-{none,lora,full}-{ce,kl}
  {ctc,attention}-{none,lora,full}-{recognition,ce,kl})

for name in "${rows[@]}"; do
  config=configs/methods.py:${name//-/,} run=$work/methods/$name
  mkdir -p "$run"
  start=$SECONDS
  $python -m acl_jax.train --config="$config" --workdir="$run" \
    --config.data.train="$work/speech/prepared" --config.data.targets="$work/targets"
  echo $((SECONDS - start)) >> "$run/seconds"
  for set in questions dialogue accented read; do
    [ -f "$work/speech/$set.jsonl" ] || continue
    $python -m acl_jax.evaluate --config="$config" --checkpoint="$run" --cascade=none \
      --manifest="$work/speech/$set.jsonl" --output="$run/report-$set"
  done
done
$python -m benchmarks.methods --input="$work/methods"
