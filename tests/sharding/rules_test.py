# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of `eight_devices.py`: how many there are is settled at the start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DEVICES = '--xla_force_host_platform_device_count=8'


@pytest.mark.parametrize('name', ['eight_devices.py', 'eight_devices_training.py'])
def test_on_eight_devices(name):
  flags = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'pytest',
      '-q',
      '-n0',
      '-p',
      'no:cacheprovider',
      HERE / name,
    ],
    env={**os.environ, 'XLA_FLAGS': flags},
    cwd=HERE.parent.parent,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
