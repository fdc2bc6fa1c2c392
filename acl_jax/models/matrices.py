# SPDX-License-Identifier: Apache-2.0
"""Products with weight matrices, whatever holds them: a parameter, integers or LoRA.

`contract`, `score_rows` and `lookup` are the only ways in which a matrix that LoRA may
wrap is used. Such a matrix declares the number of its axes that products contract, see
`layers.param`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


class QuantisedMatrix(nnx.Module):
  """A matrix in int8; indexing it dequantises to the dtype of the original.

  Symmetric: value times scale, with one scale for each index of the axes that are not
  in `reduced_axes`.
  """

  def __init__(self, param: nnx.Variable, reduced_axes: tuple[int, ...]):
    axes = param.get_metadata()['axes']
    value, scale = quantise(param[...], reduced_axes)
    self.value = nnx.Variable(value, axes=axes)
    size_one = [i % len(axes) for i in reduced_axes]
    axes = tuple(None if i in size_one else axis for i, axis in enumerate(axes))
    self.scale = nnx.Variable(scale, axes=axes)

  def __getitem__(self, index) -> Float[Array, '...']:
    scale = self.scale[index]
    return self.value[index].astype(scale.dtype) * scale


class GroupedMatrix(nnx.Module):
  """A matrix in int4; indexing it dequantises to the dtype of the original.

  Symmetric: value times scale, with one scale for each `group_size` neighbours along an
  axis that products contract.

  axis: from the end. group_size: at most; the largest divisor of the axis counts.
  """

  def __init__(self, param: nnx.Variable, axis: int, group_size: int):
    axes, size = param.get_metadata()['axes'], param.shape[axis]
    self.axis = axis
    self.group_size = max(n for n in range(1, group_size + 1) if size % n == 0)
    grouped = self._split(param[...])
    value, scale = quantise(grouped, (self._position(grouped) + 1,), jnp.int4)
    self.value = nnx.Variable(value.reshape(param.shape), axes=axes)
    self.scale = nnx.Variable(scale.squeeze(self._position(grouped) + 1), axes=axes)

  def __getitem__(self, index) -> Float[Array, '...']:
    value, scale = self.value[index], self.scale[index]
    grouped = self._split(value).astype(scale.dtype)
    scale = jnp.expand_dims(scale, self._position(grouped) + 1)
    return (grouped * jnp.broadcast_to(scale, grouped.shape)).reshape(value.shape)

  def _split(self, x: Array) -> Array:
    """Split the axis into groups and neighbours."""
    position = x.ndim + self.axis
    groups = x.shape[position] // self.group_size, self.group_size
    return x.reshape(*x.shape[:position], *groups, *x.shape[position + 1 :])

  def _position(self, grouped: Array) -> int:
    """Return the axis of the groups."""
    return grouped.ndim + self.axis - 1


@functools.partial(jax.jit, static_argnums=(1, 2))  # no float32 copy in memory
def quantise(
  weight: Float[Array, '...'],
  reduced_axes: tuple[int, ...],
  dtype: DTypeLike = jnp.int8,
) -> tuple[Int[Array, '...'], Float[Array, '...']]:
  """Quantise to integers; returns values and scales, of size 1 in `reduced_axes`."""
  wide = weight.astype(jnp.float32)
  largest = jnp.max(jnp.abs(wide), reduced_axes, keepdims=True)
  scale = jnp.where(largest > 0, largest / int(jnp.iinfo(dtype).max), 1)
  return jnp.round(wide / scale).astype(dtype), scale.astype(weight.dtype)


def contract(
  x: Float[Array, '...'], w: Any, axes: int = 1, dtype: DTypeLike | None = None
) -> Float[Array, '...']:
  """Contract the last `axes` axes of x with the first axes of a matrix.

  Computes in the dtype of `x`; dtype: of sums and result, None is that of `x`.
  """
  if not isinstance(w, nnx.Variable | QuantisedMatrix | GroupedMatrix):
    return w.contract(x, axes, dtype)
  return contract_array(x, w[...], axes, dtype)


def score_rows(
  x: Float[Array, '*b d'], table: Any, dtype: DTypeLike | None = None
) -> Float[Array, '*b v']:
  """Multiply x by every row of a table, as a tied output head; see `contract`."""
  if not isinstance(table, nnx.Variable | QuantisedMatrix | GroupedMatrix):
    return table.score_rows(x, dtype)
  return contract_array(x, table[...].T, 1, dtype)


def lookup(table: Any, ids: Int[Array, '*b']) -> Float[Array, '*b d']:
  """Look up rows of a table, in its dtype."""
  if not isinstance(table, nnx.Variable | QuantisedMatrix | GroupedMatrix):
    return table.lookup(ids)
  return table[ids]


def contract_array(
  x: Float[Array, '...'],
  w: Float[Array, '...'],
  axes: int = 1,
  dtype: DTypeLike | None = None,
) -> Float[Array, '...']:
  """As `contract`, for an array."""
  return jnp.tensordot(x, w.astype(x.dtype), axes, preferred_element_type=dtype)
