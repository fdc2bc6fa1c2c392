# SPDX-License-Identifier: Apache-2.0
"""Two processes of two devices, restored upon another mesh in the middle, train as one
of four does.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acl_jax.training.metrics import TIME_METRICS
from acl_jax.weights.adapter import load_adapter

ROOT = Path(__file__).parent.parent.parent
DEVICES = '--xla_force_host_platform_device_count'


def start(world, workdir, step, devices, *flags):
  """A process whose words go to a file: a pipe that nobody reads would stop it."""
  program = ROOT / 'tests/sharding/trains_twice.py'
  xla_flags = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}={devices}'
  words = workdir.with_name(f'{workdir.name}{len(flags) and flags[-1]}.txt')
  with words.open('w') as file:
    process = subprocess.Popen(
      [sys.executable, program, world, workdir, str(step), *flags],
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': xla_flags},
      cwd=ROOT,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return process, words


def ends(*started):
  """What they said, once all have ended well."""
  for process, words in started:
    try:
      assert process.wait(timeout=200) == 0, words.read_text()
    except BaseException:
      for other, _ in started:
        other.kill()
        other.wait()
      raise
  return [words.read_text() for _, words in started]


def metrics(workdir):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if k not in TIME_METRICS} for line in lines]


def test_two_processes_train_as_one_and_restore_in_the_middle(tiny_world, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  joined = f'--coordinator_address={address}', '--num_processes=2'
  pair = [start(tiny_world, two, 11, 2, *joined, f'--process_id={i}') for i in (0, 1)]
  said = ends(*pair)
  ends(start(tiny_world, one, 0, 4))
  assert 'response: continues at step 8 of 20' in said[0]
  assert 'process 1 of 2 is done' in said[1] and 'response 1/20' not in said[1]
  alone, together = metrics(one), metrics(two)
  assert len(alone) == len(together) == 20
  for ours, theirs in zip(together, alone, strict=True):
    assert ours.pop('stage') == theirs.pop('stage')
    assert ours['loss'] == pytest.approx(theirs['loss'], rel=1e-6)
    assert ours == pytest.approx(theirs, rel=1e-5)  # meshes sum gradients in two orders
  adapters = (load_adapter(workdir / 'adapter.safetensors') for workdir in (one, two))
  a, b = (adapter.linear_2[...] for adapter in adapters)
  np.testing.assert_allclose(a, b, atol=1e-5)
