# SPDX-License-Identifier: Apache-2.0
"""Reads an array shard by shard: only the shards of this process's devices."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Index = tuple[slice, ...]


def read_sharded(
  shape: tuple[int, ...],
  sharding: nnx.Variable | None,
  read: Callable[[Index], np.ndarray],
) -> jax.Array:
  """Make an array by reading each distinct shard once.

  sharding: holds the sharding as its value; without one, the whole array is read.
  read: returns the array at an index, whose slices have a start and a stop.
  """
  if sharding is None:
    return jnp.asarray(read(tuple(slice(0, size) for size in shape)))
  shards: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}

  def read_once(index: Index | None) -> np.ndarray:
    assert index is not None
    key = tuple(part.indices(size) for part, size in zip(index, shape, strict=True))
    if key not in shards:
      shards[key] = read(tuple(slice(start, stop) for start, stop, _ in key))
    return shards[key]

  return jax.make_array_from_callback(shape, sharding.get_value(), read_once)
