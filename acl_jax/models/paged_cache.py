# SPDX-License-Identifier: Apache-2.0
"""A KV cache in pages: all rows share one pool, and pages with what they begin with.

A page holds the keys and values of `PAGE` successive positions. Each row has a table
of its pages in order, so rows with a common prefix may name the same pages, and rows
of different lengths take no more than they need (PagedAttention, Kwon et al. 2023).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from acl_jax.models.cache import (
  BLOCK,
  Block,
  CacheMask,
  KVCache,
  attend_to_blocks,
  dequantise,
)
from acl_jax.sharding.rules import constrain

AXES = 'layers', 'pages', 'kv_heads', 'time', 'head_dim'
PAGE = BLOCK  # positions


class PagedCache(NamedTuple):
  """The pool of pages, and where the rows of one call read and write.

  table: the pages of each row, in order; those past its end are never attended to.
  page, offset: where each input's key and value are written; a page outside the pool
  writes nothing, which is how padding is left out.
  """

  pool: KVCache  # [l p k s h], s = PAGE
  table: Int[Array, 'b m']
  page: Int[Array, 'b t']
  offset: Int[Array, 'b t']

  @classmethod
  def at_positions(
    cls,
    pool: KVCache,
    table: Int[Array, 'b m'],
    positions: Int[Array, 'b t'],
    lengths: Int[Array, ' b'],
  ) -> 'PagedCache':
    """Write the first `lengths` inputs of each row at `positions`, no others."""
    page = jnp.take_along_axis(table, positions // PAGE, axis=1, mode='clip')
    is_input = jnp.arange(positions.shape[1])[None] < lengths[:, None]
    page = jnp.where(is_input, page, num_pages(pool))
    return cls(pool, table, page, positions % PAGE)

  def write(
    self,
    key: Float[Array, 'b t k h'],
    value: Float[Array, 'b t k h'],
    layer: Int[Array, ''],
    index: Int[Array, ' b'] | None,
  ) -> 'PagedCache':
    """Write the keys and values of one layer; `index` is unused."""
    del index
    pool = jax.tree.map(
      lambda array, new: array.at[layer, self.page, :, self.offset].set(new),
      self.pool,
      self.pool.quantise_like(key, value),
    )
    return self._replace(pool=pool)

  def attend(
    self, query: Float[Array, 'b t n h'], cache_mask: CacheMask, layer: Int[Array, '']
  ) -> Float[Array, 'b t n h']:
    """`layers.attention` over the pages of each row."""

    def read(number: Int[Array, '']) -> Block:
      pages = jax.lax.dynamic_index_in_dim(self.table, number, axis=1, keepdims=False)

      def read_pages(array):
        read = lambda x: x.at[layer, pages].get(mode='clip')  # noqa: E731
        return dequantise(jax.tree.map(read, array))

      mask = jax.lax.dynamic_slice_in_dim(cache_mask.mask, number * PAGE, PAGE, axis=2)
      return Block(read_pages(self.pool.key), read_pages(self.pool.value), mask)

    return attend_to_blocks(query, read, -(-cache_mask.end // PAGE))


def num_pages(pool: KVCache) -> int:
  """Return the number of pages of a pool."""
  return jax.tree.leaves(pool)[0].shape[1]


def copy_page(pool: KVCache, source: Int[Array, ''], target: Int[Array, '']) -> KVCache:
  """Copy one page onto another."""
  return jax.tree.map(lambda x: x.at[:, target].set(x[:, source]), pool)


def constrain_pool(pool: KVCache) -> KVCache:
  """Shard the heads over the mesh; every device of its rows has all pages."""
  return jax.tree.map(lambda x: constrain(x, *AXES), pool)
