# SPDX-License-Identifier: Apache-2.0
"""Products with weight matrices, whatever holds them: a parameter, int8 or LoRA.

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
from jaxtyping import Array, Float, Int, Int8


class QuantisedMatrix(nnx.Module):
  """A matrix in int8; indexing it dequantises to the dtype of the original.

  Symmetric: value times scale, with one scale for each index of the axes that are not
  in `reduced_axes`.
  """

  def __init__(self, param: nnx.Variable, reduced_axes: tuple[int, ...]):
    axes = param.get_metadata()['axes']
    value, scale = quantise_int8(param[...], reduced_axes)
    self.value = nnx.Variable(value, axes=axes)
    size_one = [i % len(axes) for i in reduced_axes]
    axes = tuple(None if i in size_one else axis for i, axis in enumerate(axes))
    self.scale = nnx.Variable(scale, axes=axes)

  def __getitem__(self, index) -> Float[Array, '...']:
    scale = self.scale[index]
    return self.value[index].astype(scale.dtype) * scale


@functools.partial(jax.jit, static_argnames='reduced_axes')  # no float32 copy in memory
def quantise_int8(
  weight: Float[Array, '...'], reduced_axes: tuple[int, ...]
) -> tuple[Int8[Array, '...'], Float[Array, '...']]:
  """Quantise to int8; returns values and scales, of size 1 in `reduced_axes`."""
  wide = weight.astype(jnp.float32)
  largest = jnp.max(jnp.abs(wide), reduced_axes, keepdims=True)
  scale = jnp.where(largest > 0, largest / 127, 1)
  return jnp.round(wide / scale).astype(jnp.int8), scale.astype(weight.dtype)


def contract(
  x: Float[Array, '...'], w: Any, axes: int = 1, dtype: DTypeLike | None = None
) -> Float[Array, '...']:
  """Contract the last `axes` axes of x with the first axes of a matrix.

  Computes in the dtype of `x`; dtype: of sums and result, None is that of `x`.
  """
  if not isinstance(w, nnx.Variable | QuantisedMatrix):
    return w.contract(x, axes, dtype)
  return contract_array(x, w[...], axes, dtype)


def score_rows(
  x: Float[Array, '*b d'], table: Any, dtype: DTypeLike | None = None
) -> Float[Array, '*b v']:
  """Multiply x by every row of a table, as a tied output head; see `contract`."""
  if not isinstance(table, nnx.Variable | QuantisedMatrix):
    return table.score_rows(x, dtype)
  return contract_array(x, table[...].T, 1, dtype)


def lookup(table: Any, ids: Int[Array, '*b']) -> Float[Array, '*b d']:
  """Look up rows of a table, in its dtype."""
  if not isinstance(table, nnx.Variable | QuantisedMatrix):
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
