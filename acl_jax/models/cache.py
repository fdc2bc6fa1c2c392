# SPDX-License-Identifier: Apache-2.0
"""The keys and values of what a decoder has read, in its numbers or in 8 bits.

They are read in blocks, as far as any row has written. A block of which a row sees
nothing leaves its answer as it was, to the bit, so how far the others have come changes
no response.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Int8

from acl_jax.models.layers import quantise_int8
from acl_jax.sharding.rules import constrain

AXES = 'layers', 'batch', 'kv_heads', 'time', 'head_dim'
BLOCK = 64  # places that are read at once
LOWEST = jnp.finfo(jnp.float32).min


class CacheMask(NamedTuple):
  """Which places each query sees, and before which they all are."""

  mask: Bool[Array, 'b t s']
  until: Int[Array, '']

  @classmethod
  def of(cls, mask: Bool[Array, 'b t s']) -> 'CacheMask':
    places = jnp.arange(1, mask.shape[2] + 1)
    return cls(mask, jnp.max(jnp.where(mask, places[None, None], 0)))


class Int8Values(NamedTuple):
  """Keys or values in 8 bits; every one has a scale of its own."""

  numbers: Int8[Array, 'l b k s h']
  scale: Float[Array, 'l b k s 1']


Part = Float[Array, 'l b k s h'] | Int8Values


class KVCache(NamedTuple):
  """The keys and values of every layer, the keys rotated already."""

  key: Part
  value: Part

  @property
  def places(self) -> int:
    """How many tokens each row has room for."""
    return jax.tree.leaves(self.key)[0].shape[3]

  def cut(self) -> 'KVCache':
    """Among the devices of a mesh: rows as those of a batch, and heads."""
    return jax.tree.map(lambda x: constrain(x, *AXES), self)

  def write(
    self,
    key: Float[Array, 'b t k h'],
    value: Float[Array, 'b t k h'],
    layer: Int[Array, ''],
    index: Int[Array, ' b'],
  ) -> 'KVCache':
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
    return self._block(layer, jnp.int32(0), self.places)

  def _block(
    self, layer: Int[Array, ''], start: Int[Array, ''], size: int
  ) -> tuple[Float[Array, 'b k s h'], ...]:
    """Those of `size` places."""

    def cut(x: Array) -> Array:
      sizes = (1, *x.shape[1:3], size, x.shape[4])
      return jax.lax.dynamic_slice(x, (layer, 0, 0, start, 0), sizes)[0]

    return tuple(_dequantise(jax.tree.map(cut, part)) for part in self)

  def attend(
    self, query: Float[Array, 'b t n h'], seen: CacheMask, layer: Int[Array, '']
  ) -> Float[Array, 'b t n h']:
    """`layers.attention` over one layer; a query that sees nothing gets zeros."""
    b, t, n, h = query.shape
    k, size = jax.tree.leaves(self.key)[0].shape[2], min(BLOCK, self.places)
    query = (query * h**-0.5).reshape(b, t, k, n // k, h).transpose(0, 2, 3, 1, 4)

    def read(block, so_far: _RunningSoftmax) -> _RunningSoftmax:
      # The last block begins early to end in time; what it repeats is not seen twice.
      start = jnp.minimum(block * size, self.places - size)
      mask = jax.lax.dynamic_slice_in_dim(seen.mask, start, size, axis=2)
      mask &= (start + jnp.arange(size) >= block * size)[None, None]
      key, value = self._block(layer, start, size)
      # float32: scores and softmax
      scores = jnp.einsum(
        'bkgth,bksh->bkgts', query, key, preferred_element_type=jnp.float32
      )
      return so_far.add(scores, mask[:, None, None], value)

    blocks = -(-seen.until // size)
    y = jax.lax.fori_loop(0, blocks, read, _RunningSoftmax.none(query)).mean()
    return y.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h).astype(query.dtype)

  def rounded(self, key: Array, value: Array) -> 'KVCache':
    """Others, in the kind of numbers that are kept here."""
    new = zip(self, (key, value), strict=True)
    return KVCache(
      *(_quantise(x) if isinstance(part, Int8Values) else x for part, x in new)
    )


class _RunningSoftmax(NamedTuple):
  """A mean of values by the softmax of their scores, of what has been read so far.

  `total` and `y` are as if the largest score were 0 (Milakov and Gimelshein 2018).
  """

  largest: Float[Array, 'b k g t 1']
  total: Float[Array, 'b k g t 1']
  y: Float[Array, 'b k g t h']

  @classmethod
  def none(cls, query: Float[Array, 'b k g t h']) -> '_RunningSoftmax':
    """Of nothing read yet."""
    total = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
    y = jnp.zeros(query.shape, jnp.float32)
    return cls(jnp.full_like(total, LOWEST), total, y)

  def add(
    self,
    scores: Float[Array, 'b k g t s'],
    mask: Bool[Array, 'b 1 1 t s'],
    value: Float[Array, 'b k s h'],
  ) -> '_RunningSoftmax':
    """With more values; those that are masked change no bit."""
    mask = jnp.broadcast_to(mask, scores.shape)
    scores = jnp.where(mask, scores, LOWEST)
    largest = jnp.maximum(self.largest, jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(scores - largest), 0)
    y = jnp.einsum(
      'bkgts,bksh->bkgth',
      weights.astype(value.dtype),
      value,
      preferred_element_type=jnp.float32,
    )
    shrink = jnp.exp(self.largest - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return _RunningSoftmax(largest, self.total * shrink + total, self.y * shrink + y)

  def mean(self) -> Float[Array, 'b k g t h']:
    """Zeros where all was masked."""
    return self.y / jnp.maximum(self.total, jnp.finfo(jnp.float32).tiny)


def empty_cache(shape: tuple[int, ...], dtype: DTypeLike, kept: DTypeLike) -> KVCache:
  """Zeros [l b k s h] in `kept`; of int8 what is read has `dtype`."""
  if jnp.dtype(kept) == jnp.int8:
    scale = jnp.zeros((*shape[:-1], 1), dtype)
    part = lambda: Int8Values(jnp.zeros(shape, jnp.int8), scale)  # noqa: E731
  else:
    part = lambda: jnp.zeros(shape, kept)  # noqa: E731
  return KVCache(part(), part())


def _quantise(x: Float[Array, '*b h']) -> Int8Values:
  return Int8Values(*quantise_int8(x, (-1,)))


def _dequantise(part: Array | Int8Values) -> Float[Array, 'b k s h']:
  if isinstance(part, Int8Values):
    return part.numbers.astype(part.scale.dtype) * part.scale
  return part
