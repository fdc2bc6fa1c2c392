# SPDX-License-Identifier: Apache-2.0
"""Train, be preempted and resume on another mesh; see `two_processes_test.py`.

  python train_twice.py WORLD WORKDIR STEP [flags of `distributed`]

The last process gets SIGTERM in step STEP; with STEP 0 nothing interrupts.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
from absl import flags

from acl_jax import train
from acl_jax.runtime import distributed
from acl_jax.runtime.program import Preempted
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training.metrics import MetricsWriter
from tests.tiny_world import change, load_config

CONFIG = {
  'mesh.data': 1,
  'mesh.fsdp': 4,
  'ctc.steps': 0,
  'adapter.letter_layers': 0,  # halves the compile time
  'response.remat': None,
  'response.ctc_weight': 0.0,
  'response.frames_per_batch': 160,
  'response.steps': 20,
  'response.save_every': 4,
  # So low that differences in the last bit of a sum do not grow.
  'response.peak_lr': 1e-3,
}


def main():
  world, workdir, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
  flags.FLAGS([sys.argv[0], *sys.argv[4:]])
  distributed.initialize()
  config = load_config(world, **CONFIG)
  jax.config.update('jax_default_matmul_precision', 'highest')
  write = MetricsWriter.write

  def write_and_terminate(self, number, *rest):
    write(self, number, *rest)
    if number == step and jax.process_index() == jax.process_count() - 1:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(3)  # JAX looks for it once a second

  # As on a pod, axes of the mesh do not end at process boundaries.
  devices = jax.devices()[::2] + jax.devices()[1::2]
  if step:
    MetricsWriter.write = write_and_terminate
    try:
      with jax.set_mesh(make_mesh(config.mesh.sizes, devices)):
        train.train(config, workdir)
    except Preempted as preempted:
      print(preempted)
    MetricsWriter.write = write
    config = change(config, **{'mesh.data': 2, 'mesh.fsdp': 2})  # to resume on
  with jax.set_mesh(make_mesh(config.mesh.sizes, devices)):
    train.train(config, workdir)
  print(f'process {jax.process_index()} of {jax.process_count()} is done')


if __name__ == '__main__':
  main()
