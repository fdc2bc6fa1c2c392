# SPDX-License-Identifier: Apache-2.0
"""Training in two processes, terminated in its midst and launched again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STEPS = 50  # enough for a signal to come in their midst


def start(tiny_world, workdir) -> subprocess.Popen:
  command = [
    *(sys.executable, '-m', 'launch.local', '--processes=2', '--'),
    *(sys.executable, '-m', 'acl_jax.train', f'--config={tiny_world}/config.py'),
    *(f'--workdir={workdir}', f'--config.ctc.steps={STEPS}'),
    *('--config.ctc.save_every=1000', '--config.response.steps=0'),
  ]
  return subprocess.Popen(
    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def test_terminated_it_saves_and_launched_again_it_ends(tiny_world, tmp_path):
  process = start(tiny_world, tmp_path)
  assert process.stdout is not None
  said = next((line for line in process.stdout if line.startswith('ctc 2/')), None)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert said and process.returncode == 42, errors
  assert errors.splitlines()[-1] == 'preempted after saving: run me again'
  kept = [int(path.name) for path in (tmp_path / 'ctc').iterdir() if path.is_dir()]
  assert 2 <= max(kept) < STEPS

  process = start(tiny_world, tmp_path)
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == list(range(1, STEPS + 1))
  assert (tmp_path / 'adapter.safetensors').exists()
