# SPDX-License-Identifier: Apache-2.0
"""Arrays of this process become arrays of all devices."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from acl_jax.parallel.sharding import BATCH

Tree = TypeVar('Tree')


def put(tree: Tree, shardings: Tree) -> Tree:
  """Arrays that every process has, each process keeping what its devices hold."""

  def place(x, sharding):
    if sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(place, tree, shardings)


def send(batch: Tree) -> Tree:
  """A batch to the devices of the mesh that is set, its rows cut among them.

  Every process gives the rows that `parts_of_batch` says. A vector has no rows: every
  process gives the same, and it is on every device.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return jax.device_put(batch)

  def of(x):
    spec = P(BATCH) if x.ndim > 1 else P()
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x)

  return jax.tree.map(of, batch)
