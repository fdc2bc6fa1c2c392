# SPDX-License-Identifier: Apache-2.0
"""A real program in two processes under the launcher."""

import subprocess
import sys
from pathlib import Path

import pytest

from acl_jax.targets.store import Targets

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent


def test_two_processes_decode_targets_into_one_folder(tiny_world, tmp_path):
  output = tmp_path / 'targets'
  command = [
    sys.executable,
    '-m',
    'launch.local',
    '--processes=2',
    '--',
    sys.executable,
    '-m',
    'acl_jax.decode_targets',
    '--shard_size=2',
    f'--config={tiny_world}/config.py',
    f'--output={output}',
    f'--input={tiny_world}/corpus/manifest.jsonl',
  ]
  completed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
  assert completed.returncode == 0, completed.stderr
  # Only the first process prints the summary.
  assert completed.stdout.count('9 responses in') == 1
  assert len(Targets(output)) == 9
  assert len(list(output.glob('targets-*-of-00005.json'))) == 5
