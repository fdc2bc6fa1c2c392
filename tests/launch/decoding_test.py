# SPDX-License-Identifier: Apache-2.0
"""Targets decoded by two processes, each its own shards of one folder."""

import subprocess
import sys
from pathlib import Path

from acl_jax.targets.store import Targets

ROOT = Path(__file__).parent.parent.parent


def test_two_processes_share_a_folder_and_end_together(tiny_world, tmp_path):
  output = tmp_path / 'targets'
  command = [
    *(sys.executable, '-m', 'launch.local', '--processes=2', '--'),
    *(sys.executable, '-m', 'acl_jax.decode_targets', '--shard_size=2'),
    *(f'--config={tiny_world}/config.py', f'--output={output}'),
    f'--input={tiny_world}/corpus/manifest.jsonl',
  ]
  done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('9 responses in') == 1
  assert len(Targets(output)) == 9
  assert len(list(output.glob('targets-*-of-00005.json'))) == 5
