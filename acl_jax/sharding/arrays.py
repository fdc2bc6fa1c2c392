# SPDX-License-Identifier: Apache-2.0
"""Conversion between arrays of this process and arrays sharded over all devices."""

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
  """Shard arrays that every process has in full; each keeps its devices' shards."""

  def put(x, sharding):
    current = getattr(x, 'sharding', None)
    on_mesh = isinstance(current, NamedSharding) and current.mesh == sharding.mesh
    if on_mesh or sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, tree, shardings)


def shard(tree: Tree, rules: ShardingRules = PARAMETERS) -> Tree:
  """Shard parameters over the current mesh by the rules; unchanged without a mesh."""
  mesh = jax.sharding.get_mesh()
  return tree if mesh.empty else put_sharded(tree, shardings(tree, mesh, rules))


def make_sharded(function: Callable[..., Tree], *arguments: Any) -> Tree:
  """Call a function that creates arrays, so that each device creates its own shards."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return function(*arguments)
  out_shardings = shardings(jax.eval_shape(function, *arguments), mesh)
  return jax.jit(function, out_shardings=out_shardings)(*arguments)


def to_device(batch: Tree) -> Tree:
  """Move a batch to the devices of the current mesh, sharded by rows.

  Every process passes the rows of its `batch_parts`. Arrays of less than two axes have
  no rows: every process passes the same values, and they are replicated.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return jax.device_put(batch)
  parts, total = batch_parts(mesh)

  def put(x: np.ndarray) -> jax.Array:
    if x.ndim < 2:
      replicated = NamedSharding(mesh, P())
      return jax.make_array_from_callback(x.shape, replicated, x.__getitem__)
    rows = len(x) // len(parts)

    def read_part(index) -> np.ndarray:
      i = parts.index((index[0].start or 0) // rows)
      return x[i * rows : (i + 1) * rows]

    shape, by_rows = (total * rows, *x.shape[1:]), NamedSharding(mesh, P(BATCH_AXES))
    return jax.make_array_from_callback(shape, by_rows, read_part)

  return jax.tree.map(put, batch)


def to_host(tree: Tree) -> Tree:
  """Gather arrays in full on a device of this process; all processes must call it."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return tree
  gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
  device = jax.local_devices()[0]
  return jax.tree.map(
    lambda x: jax.device_put(gather(x).addressable_data(0), device), tree
  )
