# SPDX-License-Identifier: Apache-2.0
"""The keys and values of what a decoder has read, in its numbers or in 8 bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int8

from acl_jax.models.layers import quantised
from acl_jax.parallel.sharding import constrain

AXES = 'layers', 'batch', 'kv_heads', 'time', 'head_dim'


class Rounded(NamedTuple):
  """Keys or values in 8 bits; every one has a scale of its own."""

  numbers: Int8[Array, 'l b k s h']
  scale: Float[Array, 'l b k s 1']


Part = Float[Array, 'l b k s h'] | Rounded


class Cache(NamedTuple):
  """The keys and values of every layer, the keys rotated already."""

  key: Part
  value: Part

  @property
  def places(self) -> int:
    """How many tokens each row has room for."""
    return jax.tree.leaves(self.key)[0].shape[3]

  def cut(self) -> 'Cache':
    """Among the devices of a mesh: rows as those of a batch, and heads."""
    return jax.tree.map(lambda x: constrain(x, *AXES), self)

  def write(
    self,
    key: Float[Array, 'b t k h'],
    value: Float[Array, 'b t k h'],
    layer: Int[Array, ''],
    index: Int[Array, ' b'],
  ) -> 'Cache':
    """Puts t keys and values of one layer into each row's places from `index` on."""
    row = jnp.arange(len(index))[:, None]
    place = index[:, None] + jnp.arange(key.shape[1])[None]
    return jax.tree.map(
      lambda all, new: all.at[layer, row, :, place].set(new),
      self,
      self.rounded(key, value),
    )

  def of_layer(self, layer: Int[Array, '']) -> tuple[Float[Array, 'b k s h'], ...]:
    """The keys and the values of one layer."""
    return tuple(_wide(jax.tree.map(lambda x: x[layer], part)) for part in self)

  def rounded(self, key: Array, value: Array) -> 'Cache':
    """Others, in the kind of numbers that are kept here."""
    new = zip(self, (key, value), strict=True)
    return Cache(*(_round(x) if isinstance(part, Rounded) else x for part, x in new))


def empty(shape: tuple[int, ...], dtype: DTypeLike, kept: DTypeLike) -> Cache:
  """Zeros [l b k s h] in `kept`; of int8 what is read has `dtype`."""
  if jnp.dtype(kept) == jnp.int8:
    scale = jnp.zeros((*shape[:-1], 1), dtype)
    part = lambda: Rounded(jnp.zeros(shape, jnp.int8), scale)  # noqa: E731
  else:
    part = lambda: jnp.zeros(shape, kept)  # noqa: E731
  return Cache(part(), part())


def _round(x: Float[Array, '*b h']) -> Rounded:
  return Rounded(*quantised(x, (-1,)))


def _wide(part: Array | Rounded) -> Float[Array, 'b k s h']:
  if isinstance(part, Rounded):
    return part.numbers.astype(part.scale.dtype) * part.scale
  return part
