# SPDX-License-Identifier: Apache-2.0
"""The figures of an accelerator, at tiny shapes on the CPU, so that they cannot rot."""

import json
import os
import re
import subprocess
from pathlib import Path

import jax
import pytest

from benchmarks import gpu_decode, gpu_model, gpu_speech, gpu_step

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_steps_are_timed_in_both_frameworks(monkeypatch):
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(gpu_model.PEAKS, kind, (1e12, 1e11))
  result = gpu_step.measure(gpu_step.TINY, 2, 'bfloat16', rounds=1, torch=True)
  assert result['tokens'] == 2 * 64 and result['peak_known']
  for name in ('', '_torch'):
    seconds = result[f'step_seconds{name}']
    assert result[f'tokens_per_second{name}'] == pytest.approx(128 / seconds, rel=0.01)
    layer = 2 * 24 * (24 + 12) + 3 * 24 * 40 + 2 * 24  # q, o, k, v; MLP; norms
    mfu = 4 * 2 * layer * 128 / seconds / 1e12
    assert result[f'mfu{name}'] == pytest.approx(mfu, abs=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_decoding_is_timed(dtype):
  result = gpu_decode.measure(gpu_step.TINY, 2, dtype, slots=3, new_tokens=7, rounds=1)
  assert result['decode_tokens_per_second'] > 0 and result['hbm_share'] is None
  matrices = 2 * (2 * 24 * (24 + 12) + 3 * 24 * 40) + 24 * 50
  cache = 3 * (7 + 3.5) * 2 * 2 * 2 * 6 * 2
  size = {'bfloat16': 2, 'int8': 1}[dtype]
  expected = size * matrices + cache  # and norms and scales
  assert expected < result['bytes_per_step'] < 1.2 * expected


@pytest.mark.full
def test_int8_steps_run():
  update = gpu_step.our_step(gpu_step.TINY, 2, 'int8')
  first = update()
  assert update() < first  # it learns its batch


def test_prompts_fill_their_rows():
  audio, response = gpu_step.make_batch(gpu_step.TINY)
  prompt = response.prompt
  assert prompt.tokens.shape == (2, 64)
  assert prompt.segment_ids[0].tolist() == sorted([1, 2, 3, 4] * 16)
  of_third = prompt.audio_index[1, 32:48].tolist()
  assert of_third == [4, 5] + [-1] * 14  # two embeddings a prompt
  assert response.index[0, 2].tolist() == [43, 44, 45, 46]  # predict the last four
  assert audio.frame_index[1, 2].tolist() == list(range(16, 24))


@pytest.mark.full
def test_the_encoder_is_timed():
  figures = gpu_speech.encoder_figures(2, 0.4, gpu_speech.TINY_SIZES, rounds=1)
  assert figures['encoder_seconds'] > 0 and figures['encoder_x_real_time'] > 0


def test_log_mel_on_the_device_is_that_of_the_host():
  figures = gpu_speech.log_mel_figures(2, 0.3, rounds=1)
  assert figures['log_mel_max_difference'] < 1e-3 and figures['log_mel_seconds'] > 0


@pytest.mark.full
def test_the_script_prints_a_line_for_every_part(tmp_path):
  python = tmp_path / 'python'
  python.write_text(
    '#!/bin/sh\n'
    'case "$*" in -c*) exit 0;; *decode*int8*) exit 3;; esac\n'
    'echo compiling; echo "{\\"ran\\": \\"$*\\"}"\n'
  )
  python.chmod(0o755)
  script = ROOT / 'benchmarks/gpu.sh'
  done = subprocess.run(
    [script, '--tiny'],
    env=os.environ | {'PYTHON': str(python)},
    capture_output=True,
    text=True,
  )
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(lines) == len(re.findall('^run ', script.read_text(), re.M)) == 5
  assert lines[0] == {'ran': 'benchmarks/gpu_step.py --dtype=bfloat16 --torch --tiny'}
  assert lines[3] == {
    'figure': 'gpu_decode',
    'flags': '--dtype=int8 --tiny',
    'exit_code': 3,
  }
  assert done.returncode == 1
  for line in lines:
    if 'ran' in line:
      path = ROOT / line['ran'].split()[0]
      flags = re.findall(r'--(?:no)?(\w+)', line['ran'])
      assert all(f"'{flag}'" in path.read_text() for flag in flags)
  limits = map(int, re.findall(r'^run (\d+)', script.read_text(), re.M))
  assert sum(limits) < 15 * 60
