# SPDX-License-Identifier: Apache-2.0
"""Two processes of four devices train as one of eight does, restored in the middle."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from acl_jax.training.metrics import OF_TIME
from acl_jax.weights.adapter import load_adapter

ROOT = Path(__file__).parent.parent.parent
DEVICES = '--xla_force_host_platform_device_count'


def start(world, workdir, step, devices, *flags):
  program = ROOT / 'tests/parallel/trains_twice.py'
  xla_flags = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}={devices}'
  return subprocess.Popen(
    [sys.executable, program, world, workdir, str(step), *flags],
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': xla_flags},
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def ends(*processes):
  """What they said, once all have ended well."""
  said = [process.communicate(timeout=500)[0] for process in processes]
  assert not any(process.returncode for process in processes), '\n\n'.join(said)
  return said


def metrics(workdir):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if k not in OF_TIME} for line in lines]


def test_two_processes_train_as_one_and_restore_in_the_middle(tiny_world, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  joined = f'--coordinator_address={address}', '--num_processes=2'
  pair = [start(tiny_world, two, 7, 4, *joined, f'--process_id={i}') for i in (0, 1)]
  said = ends(*pair)
  ends(start(tiny_world, one, 0, 8))
  assert 'response: continues at step 4 of 10' in said[0]
  assert 'process 1 of 2 is done' in said[1] and 'ctc 1/10' not in said[1]
  alone, together = metrics(one), metrics(two)
  assert len(alone) == len(together) == 20
  for ours, theirs in zip(together, alone, strict=True):
    assert ours == pytest.approx(theirs, rel=1e-6)
  adapters = (load_adapter(workdir / 'adapter.safetensors') for workdir in (one, two))
  a, b = (adapter.linear_2[...] for adapter in adapters)
  assert a == pytest.approx(b, abs=1e-5)
