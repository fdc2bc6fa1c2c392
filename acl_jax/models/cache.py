# SPDX-License-Identifier: Apache-2.0
"""The KV cache of a decoder, in the decoder's dtype or in int8.

Attention reads it in blocks, up to the last position that any row attends to. A block
that is masked for a row leaves that row's output unchanged to the bit, so responses do
not depend on the lengths of other rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Int8

from acl_jax.models.matrices import quantise
from acl_jax.sharding.rules import constrain

AXES = 'layers', 'batch', 'kv_heads', 'time', 'head_dim'
BLOCK = 64  # positions that are read at once
LOWEST = jnp.finfo(jnp.float32).min


class CacheMask(NamedTuple):
  """An attention mask over the cache, and the end of what it covers.

  end: one more than the last position that any query attends to.
  """

  mask: Bool[Array, 'b t s']
  end: Int[Array, '']

  @classmethod
  def from_mask(cls, mask: Bool[Array, 'b t s']) -> 'CacheMask':
    """Derive `end` from the mask."""
    ends = jnp.arange(1, mask.shape[2] + 1)
    return cls(mask, jnp.max(jnp.where(mask, ends[None, None], 0)))


class Int8Values(NamedTuple):
  """Keys or values in int8, with one scale for each vector of a head."""

  values: Int8[Array, 'l b k s h']
  scale: Float[Array, 'l b k s 1']


CacheArray = Float[Array, 'l b k s h'] | Int8Values


class KVCache(NamedTuple):
  """The keys and values of every layer, keys with their rotary embedding applied."""

  key: CacheArray
  value: CacheArray

  @property
  def length(self) -> int:
    """The number of tokens that each row has space for."""
    return jax.tree.leaves(self.key)[0].shape[3]

  def constrain(self) -> 'KVCache':
    """Shard rows and heads over the mesh."""
    return jax.tree.map(lambda x: constrain(x, *AXES), self)

  def write(
    self,
    key: Float[Array, 'b t k h'],
    value: Float[Array, 'b t k h'],
    layer: Int[Array, ''],
    index: Int[Array, ' b'],
  ) -> 'KVCache':
    """Write t keys and values of one layer at each row's positions from `index` on."""
    row = jnp.arange(len(index))[:, None]
    position = index[:, None] + jnp.arange(key.shape[1])[None]
    return jax.tree.map(
      lambda array, new: array.at[layer, row, :, position].set(new),
      self,
      self.quantise_like(key, value),
    )

  def read_layer(self, layer: Int[Array, '']) -> tuple[Float[Array, 'b k s h'], ...]:
    """Return the keys and the values of one layer."""
    return self._read_block(layer, jnp.int32(0), self.length)

  def _read_block(
    self, layer: Int[Array, ''], start: Int[Array, ''], size: int
  ) -> tuple[Float[Array, 'b k s h'], ...]:
    """Return one layer's keys and values at `size` positions from `start` on."""

    def read(x: Array) -> Array:
      sizes = (1, *x.shape[1:3], size, x.shape[4])
      return jax.lax.dynamic_slice(x, (layer, 0, 0, start, 0), sizes)[0]

    return tuple(dequantise(jax.tree.map(read, array)) for array in self)

  def attend(
    self, query: Float[Array, 'b t n h'], cache_mask: CacheMask, layer: Int[Array, '']
  ) -> Float[Array, 'b t n h']:
    """`layers.attention` over one layer; zeros for a query whose mask is all False."""
    size = min(BLOCK, self.length)

    def read(block: Int[Array, '']) -> Block:
      # The last block starts early to fit in the cache; positions that the block before
      # has read are masked.
      start = jnp.minimum(block * size, self.length - size)
      mask = jax.lax.dynamic_slice_in_dim(cache_mask.mask, start, size, axis=2)
      mask &= (start + jnp.arange(size) >= block * size)[None, None]
      key, value = self._read_block(layer, start, size)
      return Block(key, value, mask)

    return attend_to_blocks(query, read, -(-cache_mask.end // size))

  def quantise_like(self, key: Array, value: Array) -> 'KVCache':
    """Return other keys and values, quantised if this cache is in int8."""
    if isinstance(self.key, Int8Values):
      return KVCache(_quantise(key), _quantise(value))
    return KVCache(key, value)


class Block(NamedTuple):
  """Keys and values that are read at once, and which queries attend to them."""

  key: Float[Array, 'b k s h']
  value: Float[Array, 'b k s h']
  mask: Bool[Array, 'b t s']


def attend_to_blocks(
  query: Float[Array, 'b t n h'],
  read: Callable[[Int[Array, '']], Block],
  num_blocks: Int[Array, ''],
) -> Float[Array, 'b t n h']:
  """`layers.attention` over blocks that `read` returns by number."""
  b, t, n, h = query.shape
  k = jax.eval_shape(read, jnp.int32(0)).key.shape[1]
  query = (query * h**-0.5).reshape(b, t, k, n // k, h).transpose(0, 2, 3, 1, 4)

  def attend(number, softmax: _RunningSoftmax) -> _RunningSoftmax:
    block = read(number)
    # float32: scores and softmax
    scores = jnp.einsum(
      'bkgth,bksh->bkgts', query, block.key, preferred_element_type=jnp.float32
    )
    return softmax.update(scores, block.mask[:, None, None], block.value)

  softmax = _RunningSoftmax.empty(query)
  y = jax.lax.fori_loop(0, num_blocks, attend, softmax).mean()
  return y.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h).astype(query.dtype)


class _RunningSoftmax(NamedTuple):
  """The softmax-weighted sum of values over the blocks so far.

  largest: the largest score. total, y: sums of weights and of weighted values, both
  relative to the largest score (online softmax, Milakov and Gimelshein 2018).
  """

  largest: Float[Array, 'b k g t 1']
  total: Float[Array, 'b k g t 1']
  y: Float[Array, 'b k g t h']

  @classmethod
  def empty(cls, query: Float[Array, 'b k g t h']) -> '_RunningSoftmax':
    """Start before the first block."""
    total = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
    y = jnp.zeros(query.shape, jnp.float32)
    return cls(jnp.full_like(total, LOWEST), total, y)

  def update(
    self,
    scores: Float[Array, 'b k g t s'],
    mask: Bool[Array, 'b 1 1 t s'],
    value: Float[Array, 'b k s h'],
  ) -> '_RunningSoftmax':
    """Add a block of values; masked values change no bit."""
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
    """Return the weighted mean; zeros where all values were masked."""
    return self.y / jnp.maximum(self.total, jnp.finfo(jnp.float32).tiny)


def empty_cache(
  shape: tuple[int, ...], dtype: DTypeLike, storage_dtype: DTypeLike
) -> KVCache:
  """Create a cache of zeros [l b k s h]; from int8 storage it is read as `dtype`."""

  def create() -> CacheArray:
    if jnp.dtype(storage_dtype) != jnp.int8:
      return jnp.zeros(shape, storage_dtype)
    scale = jnp.zeros((*shape[:-1], 1), dtype)
    return Int8Values(jnp.zeros(shape, jnp.int8), scale)

  return KVCache(create(), create())


def _quantise(x: Float[Array, '*b h']) -> Int8Values:
  return Int8Values(*quantise(x, (-1,)))


def dequantise(array: Array | Int8Values) -> Float[Array, 'b k s h']:
  """Return keys or values in the dtype that attention computes in."""
  if isinstance(array, Int8Values):
    return array.values.astype(array.scale.dtype) * array.scale
  return array
