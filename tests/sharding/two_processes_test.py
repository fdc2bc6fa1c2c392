# SPDX-License-Identifier: Apache-2.0
"""Two processes of two devices train as one process of four, even if SIGTERM ends them
and they resume on another mesh.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acl_jax.training.metrics import TIME_METRICS
from acl_jax.weights.adapter import load_adapter

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent
DEVICES = '--xla_force_host_platform_device_count'


def start(world, workdir, step, devices, *flags):
  """Start a process that writes to a file; a pipe that is not read would block it."""
  program = ROOT / 'tests/sharding/train_twice.py'
  xla_flags = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}={devices}'
  log = workdir.with_name(f'{workdir.name}{len(flags) and flags[-1]}.txt')
  with log.open('w') as file:
    process = subprocess.Popen(
      [sys.executable, program, world, workdir, str(step), *flags],
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': xla_flags},
      cwd=ROOT,
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  return process, log


def wait_for(*started):
  """Wait until all processes have succeeded; returns their logs."""
  for process, log in started:
    try:
      assert process.wait(timeout=200) == 0, log.read_text()
    except BaseException:
      for other, _ in started:
        other.kill()
        other.wait()
      raise
  return [log.read_text() for _, log in started]


def metrics(workdir):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{k: v for k, v in line.items() if k not in TIME_METRICS} for line in lines]


@pytest.mark.full
def test_two_processes_that_restart_train_as_one(tiny_world, tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  with socket.socket() as unused:
    unused.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{unused.getsockname()[1]}'
  joined = f'--coordinator_address={address}', '--num_processes=2'
  pair = [start(tiny_world, two, 6, 2, *joined, f'--process_id={i}') for i in (0, 1)]
  logs = wait_for(*pair)
  wait_for(start(tiny_world, one, 0, 4))
  stops = {re.search(r'^response at step (\d+)$', log, re.M)[1] for log in logs}
  (stop,) = stops  # both saved after the same step
  assert 6 <= int(stop) < 20
  assert f'response: continues at step {stop} of 20' in logs[0]
  assert 'process 1 of 2 is done' in logs[1] and 'response 1/20' not in logs[1]
  expected, actual = metrics(one), metrics(two)
  assert len(expected) == len(actual) == 20
  for values, expected_values in zip(actual, expected, strict=True):
    assert values.pop('stage') == expected_values.pop('stage')
    assert values['loss'] == pytest.approx(expected_values['loss'], rel=1e-6)
    # Meshes sum gradients in different orders.
    assert values == pytest.approx(expected_values, rel=1e-5)
  adapters = (load_adapter(workdir / 'adapter.safetensors') for workdir in (one, two))
  a, b = (adapter.linear_2[...] for adapter in adapters)
  np.testing.assert_allclose(a, b, atol=1e-5)
