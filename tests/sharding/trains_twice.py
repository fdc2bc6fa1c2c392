# SPDX-License-Identifier: Apache-2.0
"""A training that ends within a step and is continued; `two_processes_test.py` runs it.

  python trains_twice.py WORLD WORKDIR STEP [flags of `distributed`]

It ends in step number STEP, or not at all if that is 0.
"""

import contextlib
import sys
from pathlib import Path

import jax
from absl import flags

from acl_jax import train
from acl_jax.runtime import distributed
from acl_jax.sharding.mesh import make_mesh
from acl_jax.training.metrics import MetricsWriter
from tests.tiny_world import load_config

CONFIG = {
  'mesh.data': 1,
  'mesh.fsdp': 4,
  'ctc.steps': 0,
  'adapter.letter_layers': 0,  # half as much to compile
  'response.remat': None,
  'response.ctc_weight': 0.0,
  'response.frames_per_batch': 160,
  'response.steps': 20,
  'response.save_every': 4,
  # Little enough to learn that the last bit of a sum stays the last bit.
  'response.peak_lr': 1e-3,
}


def main():
  world, workdir, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
  flags.FLAGS([sys.argv[0], *sys.argv[4:]])
  distributed.initialize()
  config = load_config(world, **CONFIG)
  jax.config.update('jax_default_matmul_precision', 'highest')
  write = MetricsWriter.write

  def end(self, number, *rest):
    write(self, number, *rest)
    if number == step:
      raise KeyboardInterrupt

  # As on a pod, no axis of the mesh ends where a process does.
  devices = jax.devices()[::2] + jax.devices()[1::2]
  if step:
    MetricsWriter.write = end
    with jax.set_mesh(make_mesh(config.mesh, devices)):
      with contextlib.suppress(KeyboardInterrupt):
        train.train(config, workdir)
    MetricsWriter.write = write
    config.mesh.update(data=2, fsdp=2)  # it goes on upon another mesh
  with jax.set_mesh(make_mesh(config.mesh, devices)):
    train.train(config, workdir)
  print(f'process {jax.process_index()} of {jax.process_count()} is done')


if __name__ == '__main__':
  main()
