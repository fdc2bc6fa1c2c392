#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All figures of one accelerator, in 15 minutes on an H200: lines of JSON on stdout.
#
#   .venv/bin/pip install -e '.[gpu,torch]'    # a torch with CUDA
#   benchmarks/gpu.sh > figures.jsonl
#
# `--tiny` runs the same on any machine, for a test. A part that fails prints a line with
# its exit code, and the others still run; what has no torch measures ours alone.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-.5} # torch: rest
case " $* " in *' --tiny '*) export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} ;; esac

torch=--torch
"$python" -c 'import torch, transformers' 2> /dev/null || torch=--notorch

failed=0
run() { # seconds, benchmark, flags
  local seconds=$1 name=$2 code=0 output
  shift 2
  output=$(timeout "$seconds" "$python" "benchmarks/$name.py" "$@") || code=$?
  if [ "$code" -eq 0 ]; then
    tail -n 1 <<< "$output"
  else
    printf '{"figure": "%s", "flags": "%s", "exit_code": %d}\n' "$name" "$*" "$code"
    failed=1
  fi
}

run 240 gpu_step --dtype=bfloat16 "$torch" "$@"
run 180 gpu_step --dtype=int8 "$@"
run 150 gpu_decode --dtype=bfloat16 "$@"
run 150 gpu_decode --dtype=int8 "$@"
run 120 gpu_speech "$@"
exit "$failed"
