# SPDX-License-Identifier: Apache-2.0
"""A tensor whose numbers are read when needed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from acl_jax.weights.sharded_read import Index


def cast_floats(array: np.ndarray, dtype: DTypeLike, name: str) -> np.ndarray:
  """Return a floating-point array in `dtype`, any other array as it is.

  name: of the file and the tensor. ValueError if a value is not finite in `dtype`.
  """
  if not np.issubdtype(array.dtype, np.floating):
    return array
  with np.errstate(over='ignore'):  # checked below
    array = array.astype(dtype)
  if not np.isfinite(array).all():
    raise ValueError(f'{name} has values that are not finite in {np.dtype(dtype)}')
  return array


class Tensor(NamedTuple):
  """A tensor in a file or in memory: its shape and dtype, and functions that read it.

  slice_reader: reads a slice without the rest, where the format allows that.
  """

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]
  dtype: np.dtype = np.dtype(np.float32)
  slice_reader: Callable[[Index], np.ndarray] | None = None

  @classmethod
  def from_array(cls, array: np.ndarray) -> 'Tensor':
    """Wrap an array that is in memory."""
    return cls(array.shape, lambda: array, array.dtype)

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def astype(self, dtype: DTypeLike) -> 'Tensor':
    """Convert to `dtype` when read; integers keep theirs."""
    dtype = np.dtype(dtype) if jnp.issubdtype(self.dtype, np.floating) else self.dtype
    return Tensor(self.shape, lambda: self.read().astype(dtype, copy=False), dtype)

  def read_slice(self, index: Index) -> np.ndarray:
    """Read a slice, given by start and stop along every axis."""
    is_whole = all(
      (part.start, part.stop) == (0, size)
      for part, size in zip(index, self.shape, strict=True)
    )
    if is_whole or self.slice_reader is None:
      return self.read()[index]
    return self.slice_reader(index)
