# SPDX-License-Identifier: Apache-2.0
"""Arrays of this process become arrays of all devices, and back."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from acl_jax.sharding.mesh import batch_parts
from acl_jax.sharding.rules import BATCH_AXES, PARAMETERS, ShardingRules, shardings

Tree = TypeVar('Tree')


def put_sharded(tree: Tree, shardings: Tree) -> Tree:
  """Arrays that every process has, each process keeping what its devices hold."""

  def place(x, sharding):
    there = getattr(x, 'sharding', None)
    on_the_mesh = isinstance(there, NamedSharding) and there.mesh == sharding.mesh
    if on_the_mesh or sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(place, tree, shardings)


def shard(tree: Tree, rules: ShardingRules = PARAMETERS) -> Tree:
  """Parameters over the devices of the mesh that is set, as the rules cut them."""
  mesh = jax.sharding.get_mesh()
  return tree if mesh.empty else put_sharded(tree, shardings(tree, mesh, rules))


def make_sharded(function: Callable[..., Tree], *arguments: Any) -> Tree:
  """What a function makes of nothing but sizes, each device making its own pieces."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return function(*arguments)
  cut = shardings(jax.eval_shape(function, *arguments), mesh)
  return jax.jit(function, out_shardings=cut)(*arguments)


def to_device(batch: Tree) -> Tree:
  """A batch to the devices of the mesh that is set, its rows cut among them.

  Every process gives the rows of its `parts_of_batch`. A vector has no rows: every
  process gives the same, and it is on every device.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return jax.device_put(batch)
  parts, total = batch_parts(mesh)

  def of(x: np.ndarray) -> jax.Array:
    if x.ndim < 2:
      whole = NamedSharding(mesh, P())
      return jax.make_array_from_callback(x.shape, whole, x.__getitem__)
    rows = len(x) // len(parts)

    def part(index) -> np.ndarray:
      place = parts.index((index[0].start or 0) // rows)
      return x[place * rows : (place + 1) * rows]

    shape, cut = (total * rows, *x.shape[1:]), NamedSharding(mesh, P(BATCH_AXES))
    return jax.make_array_from_callback(shape, cut, part)

  return jax.tree.map(of, batch)


def to_host(tree: Tree) -> Tree:
  """The same arrays, whole on a device of this process; all processes must ask."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return tree
  gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
  device = jax.local_devices()[0]
  return jax.tree.map(
    lambda x: jax.device_put(gather(x).addressable_data(0), device), tree
  )
