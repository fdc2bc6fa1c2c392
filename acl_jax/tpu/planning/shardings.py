# SPDX-License-Identifier: Apache-2.0
"""Shardings of a step's arguments; without a mesh, shapes stay as they are."""

import contextlib

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from acl_jax.runtime.rounding import round_up
from acl_jax.sharding import rules as sharding


def round_up_rows(rows: int, mesh: Mesh | None) -> int:
  """Add empty rows, so that every device has equally many."""
  shards = 1 if mesh is None else mesh.shape['data'] * mesh.shape['fsdp']
  return round_up(rows, shards)


def mesh_context(mesh: Mesh | None):
  """Return the context to lower in."""
  return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def with_parameter_shardings(
  tree, mesh: Mesh | None, rules: sharding.ShardingRules = sharding.PARAMETERS
):
  """Return shapes of parameters, or of optimizer state, with their shardings."""
  if mesh is None:
    return tree
  return _with_shardings(tree, sharding.shardings(tree, mesh, rules))


def with_batch_shardings(batch, mesh: Mesh | None):
  """Return shapes of a batch: rows are sharded, what they share is replicated."""
  if mesh is None:
    return batch
  by_rows = NamedSharding(mesh, P(sharding.BATCH_AXES))
  replicated = NamedSharding(mesh, P())
  return _with_shardings(
    batch, jax.tree.map(lambda x: by_rows if x.ndim > 1 else replicated, batch)
  )


def _with_shardings(tree, shardings):
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def key_shape(mesh: Mesh | None):
  """Return the shape of a random key."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return key if mesh is None else _with_shardings(key, NamedSharding(mesh, P()))


def with_state_shardings(state, mesh: Mesh | None):
  """Return shapes of the decode state or the prefill queue with their shardings.

  Rows are sharded; of KV caches, so are heads.
  """
  if mesh is None:
    return state

  def sharding_of(x) -> NamedSharding:
    if x.ndim == 5:  # a KV cache
      return NamedSharding(mesh, P(None, sharding.BATCH_AXES, 'tensor'))
    return NamedSharding(mesh, P(sharding.BATCH_AXES) if x.ndim else P())

  return _with_shardings(state, jax.tree.map(sharding_of, state))
