# SPDX-License-Identifier: Apache-2.0
"""Attention among packed prompts by the splash kernel, which only TPUs have: scores of
what does not see each other are skipped, and no score leaves the chip's own memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Float, Int

from acl_jax.sharding.rules import partition_spec

LANES = 128  # lengths are multiples of it
QUERIES, KEYS = 512, 1_024  # of a block, at most
PADDING_SEGMENT = -1  # the segment of keys that are there to fill up


class PackedCausalMask(NamedTuple):
  """Who sees whom: in its own segment, what is not behind; and what all rows share.

  Stands for a mask. per_row: segments of a row at most.
  """

  segment_ids: Int[Array, 'b t']
  per_row: int


def is_available() -> bool:
  """Whether what is being traced is for TPUs: those of the mesh, or else JAX's own."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device.platform if device else jax.default_backend()) == 'tpu'


def packed_attention(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  packed: PackedCausalMask,
  interpret: bool = False,
) -> Float[Array, 'b t n h']:
  """As `layers.attention`; the first s - t keys stand before every segment.

  A query in segment 0 gets an arbitrary finite answer.
  """
  b, t, _, h = query.shape
  shared, ids = key.shape[2] - t, packed.segment_ids
  # Ids alone cannot say that all segments see a key, so each has its own copy of it.
  copies = jnp.repeat(jnp.arange(1, packed.per_row + 1), shared)
  fill = -(copies.size) % LANES
  copies = jnp.pad(copies, (0, fill), constant_values=PADDING_SEGMENT).astype(ids.dtype)
  behind = ((0, 0), (0, -t % LANES))
  ids = jnp.pad(ids, behind)
  seen = jnp.concatenate([jnp.broadcast_to(copies, (b, copies.size)), ids], axis=1)

  def laid(x: Float[Array, 'b k s h']) -> Float[Array, 'b k s2 h']:
    first = jnp.tile(x[:, :, :shared], (1, 1, packed.per_row, 1))
    first = jnp.pad(first, ((0, 0), (0, 0), (0, fill), (0, 0)))
    own = jnp.pad(x[:, :, shared:], ((0, 0), *behind, (0, 0)))
    return jnp.concatenate([first, own], axis=2)

  query = jnp.pad((query * h**-0.5).swapaxes(1, 2), ((0, 0), *behind, (0, 0)))

  def attend(query, key, value, ids, seen):
    kernel = _kernel(query.shape[1], query.shape[2], key.shape[2], interpret)
    return jax.vmap(kernel)(query, key, value, splash.SegmentIds(ids, seen))

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:  # a kernel is not cut by the compiler
    heads = partition_spec(query, 'batch', 'heads', 'time', 'head_dim')
    rows = partition_spec(ids, 'batch', 'time')
    attend = jax.shard_map(
      attend,
      in_specs=(heads, heads, heads, rows, rows),
      out_specs=heads,
      check_vma=False,
    )
  y = jnp.asarray(attend(query, laid(key), laid(value), ids, seen))
  return y[:, :, :t].swapaxes(1, 2)


def _kernel(heads: int, queries: int, keys: int, interpret: bool):
  q, s = _block_size(queries, QUERIES), _block_size(keys, KEYS)
  blocks = splash.BlockSizes(
    block_q=q,
    block_kv=s,
    block_kv_compute=s,
    block_q_dkv=q,
    block_kv_dkv=s,
    block_kv_dkv_compute=s,
    block_q_dq=q,
    block_kv_dq=s,
  )
  mask = splash.CausalMask((queries, keys), offset=keys - queries)
  return splash.make_splash_mha(
    splash.MultiHeadMask([mask] * heads),
    block_sizes=blocks,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )


def _block_size(length: int, most: int) -> int:
  """The longest block, in lanes, of which there is a whole number."""
  return max(n for n in range(LANES, most + 1, LANES) if length % n == 0)
