#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Train and evaluate the rows of docs/methods.md: configs/methods.sh WORK [ROW...]
# WORK/speech is made by configs/speech.sh, WORK/targets by decode_targets. A row of
# responses starts where the row of recognition alone ended, which is trained first, once,
# and counts in the minutes of both. Run it again to resume.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 WORK [ROW...]" >&2; exit 1; }
work=$(realpath "$1"); shift
cd "$(dirname "$0")/.."
python=.venv/bin/python
rows=("$@")
[ $# -gt 0 ] || rows=({linear,ultravox}-{none,lora,full}-{ce,kl}
  {ctc,attention}-{none,lora,full}-{recognition,ce,kl})

train() {  # ROW
  local run=$work/methods/$1 start=$SECONDS
  [ ! -f "$run/adapter.safetensors" ] || return 0
  mkdir -p "$run"
  case $1 in  # frames of the frozen encoder are the same in all rows
    attention-none-*) share frames-with-silence "$run/frames" ;;
    *-none-*) share frames "$run/frames" ;;
  esac
  $python -m acl_jax.train --config="configs/methods.py:${1//-/,}" --workdir="$run" \
    --config.data.train="$work/speech/prepared" --config.data.targets="$work/targets"
  echo $((SECONDS - start)) >> "$run/seconds"
}

share() {  # FOLDER LINK
  mkdir -p "$work/methods/shared/$1"
  ln -sfn "$work/methods/shared/$1" "$2"
}

continue_recognition() {  # ROW
  local recognition=$work/methods/${1%-*}-recognition run=$work/methods/$1 stage
  [ ! -d "$run" ] || return 0
  train "${1%-*}-recognition"
  rm -rf "$run.tmp"
  mkdir "$run.tmp"
  case $1 in ctc-*) stage=ctc ;; *) stage=transcription ;; esac
  cp -r "$recognition"/{$stage,seconds} "$run.tmp"
  mv "$run.tmp" "$run"
}

for name in "${rows[@]}"; do
  run=$work/methods/$name
  case $name in
    ctc-*-ce | ctc-*-kl | attention-*-ce | attention-*-kl) continue_recognition "$name" ;;
  esac
  train "$name"
  for set in questions dialogue accented read; do
    [ -f "$work/speech/$set.jsonl" ] || continue
    mkdir -p "$run/report-$set"
    share "responses-$set" "$run/report-$set/cache"
    $python -m acl_jax.evaluate --config="configs/methods.py:${name//-/,}" \
      --checkpoint="$run" --cascade=none \
      --manifest="$work/speech/$set.jsonl" --output="$run/report-$set"
  done
done
$python -m benchmarks.methods --input="$work/methods"
