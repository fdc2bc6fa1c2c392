# SPDX-License-Identifier: Apache-2.0
"""Platforms are chosen by what the machine has, with folders that stand for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acl_jax.runtime.accelerators import has_tpu, platforms_without_tpu

ROOT = Path(__file__).parent.parent.parent
CUDA = {'xla_cuda12'}


def make_machine(folder, files=(), pci=()):
  for file in files:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text('')
  for number, (vendor, device) in enumerate(pci):
    place = folder / f'sys/bus/pci/devices/0000:00:0{number}.0'
    place.mkdir(parents=True)
    (place / 'vendor').write_text(vendor + '\n')
    (place / 'device').write_text(device + '\n')
  return folder


@pytest.mark.parametrize(
  'files, pci, environment, plugins, platforms',
  [
    ([], [], {}, set(), 'cpu'),
    (['dev/accel/accel0', 'dev/vfio/vfio'], [], {}, set(), 'cpu'),  # of other makers
    ([], [('0x1ae0', '0x0042'), ('0x8086', '0x0063')], {}, set(), 'cpu'),  # a network
    (['dev/accel0'], [], {}, set(), None),
    (['dev/vfio/0'], [], {}, set(), None),
    ([], [('0x1ae0', '0x0042'), ('0x1ae0', '0x0063')], {}, set(), None),
    ([], [], {'TPU_WORKER_ID': '0'}, CUDA, None),
    (['dev/nvidia0'], [], {}, CUDA, 'cuda,cpu'),
    (['dev/nvidiactl'], [], {}, {*CUDA, 'xla_cuda13'}, 'cuda,cpu'),
    (['dev/nvidia0'], [], {}, set(), 'cpu'),
    ([], [], {}, CUDA, 'cpu'),
    (['dev/kfd'], [], {}, {'xla_rocm7'}, 'rocm,cpu'),
    (['dev/nvidia0'], [], {}, {*CUDA, 'other'}, None),
  ],
)
def test_what_a_machine_has(tmp_path, files, pci, environment, plugins, platforms):
  root = make_machine(tmp_path, files, pci)
  assert platforms_without_tpu(plugins, environment, root) == platforms
  assert has_tpu({}, tmp_path / 'none') is False


SCRIPT = """
import jax
from acl_jax.runtime import program

def main(argv):
  jax.devices()
  print(jax.config.jax_platforms, 'libtpu.so' in open('/proc/self/maps').read())

program.run(main)
"""


@pytest.mark.full
@pytest.mark.skipif(has_tpu(os.environ), reason='this machine has a TPU')
@pytest.mark.parametrize('chosen', ['', 'cpu'])
def test_a_program_is_quiet_without_a_tpu(chosen):
  pytest.importorskip('libtpu')
  # libtpu, which other tests load, leaves variables of its own.
  ours = ('JAX_PLATFORMS', 'TPU_')
  environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
  environment['PYTHONPATH'] = str(ROOT)
  if chosen:
    environment['JAX_PLATFORMS'] = chosen
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT], env=environment, capture_output=True, text=True
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.endswith('cpu False\n')
