# SPDX-License-Identifier: Apache-2.0
"""An array in the pieces that the devices of this process hold, each read once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Index = tuple[slice, ...]


def place(
  shape: tuple[int, ...],
  cut: nnx.Variable | None,
  read: Callable[[Index], np.ndarray],
) -> jax.Array:
  """An array of what `read` has at every index, each read once."""
  if cut is None:
    return jnp.asarray(read(tuple(slice(0, size) for size in shape)))
  parts: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}

  def part(index: Index | None) -> np.ndarray:
    assert index is not None
    key = tuple(of.indices(size) for of, size in zip(index, shape, strict=True))
    if key not in parts:
      parts[key] = read(tuple(slice(start, stop) for start, stop, _ in key))
    return parts[key]

  return jax.make_array_from_callback(shape, cut.get_value(), part)
