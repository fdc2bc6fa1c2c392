# SPDX-License-Identifier: Apache-2.0
"""Attention within packed prompts by the splash kernel, for TPUs only.

It skips blocks of scores that are masked, and no score is written to HBM.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Bool, Float, Int

from acl_jax.sharding.rules import partition_spec

LANES = 128  # the kernel's lengths are multiples of it
MAX_QUERIES, MAX_KEYS = 512, 1_024  # of a block
PADDING_SEGMENT = -1  # the segment of padding among the keys


class PackedCausalMask(NamedTuple):
  """A causal mask within segments, which also attend to the shared prefix.

  Used in place of an array. max_per_row: limit on the segments of a row. window: each
  query attends to this many keys, the last ones, its own included; None: to all.
  ignores_window: whether this layer does; None: it does not.
  """

  segment_ids: Int[Array, 'b t']
  max_per_row: int
  window: int | None = None
  ignores_window: Bool[Array, ''] | None = None


def is_available() -> bool:
  """Whether the code is being traced for TPUs: of the mesh, or else JAX's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device.platform if device else jax.default_backend()) == 'tpu'


def packed_attention(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  packed: PackedCausalMask,
  interpret: bool = False,
) -> Float[Array, 'b t n h']:
  """As `layers.attention`; the first s - t keys are the shared prefix.

  The output is arbitrary but finite for a query in segment 0.
  """
  b, t, _, h = query.shape
  prefix, ids = key.shape[2] - t, packed.segment_ids
  # A key has one segment id, so every segment gets its own copy of the prefix.
  prefix_ids = jnp.repeat(jnp.arange(1, packed.max_per_row + 1), prefix)
  fill = -prefix_ids.size % LANES
  prefix_ids = jnp.pad(prefix_ids, (0, fill), constant_values=PADDING_SEGMENT)
  prefix_ids = prefix_ids.astype(ids.dtype)
  time_padding = ((0, 0), (0, -t % LANES))
  ids = jnp.pad(ids, time_padding)
  prefix_ids = jnp.broadcast_to(prefix_ids, (b, prefix_ids.size))
  key_ids = jnp.concatenate([prefix_ids, ids], axis=1)

  def copy_prefix(x: Float[Array, 'b k s h']) -> Float[Array, 'b k s2 h']:
    copies = jnp.tile(x[:, :, :prefix], (1, 1, packed.max_per_row, 1))
    copies = jnp.pad(copies, ((0, 0), (0, 0), (0, fill), (0, 0)))
    rest = jnp.pad(x[:, :, prefix:], ((0, 0), *time_padding, (0, 0)))
    return jnp.concatenate([copies, rest], axis=2)

  query = jnp.pad((query * h**-0.5).swapaxes(1, 2), ((0, 0), *time_padding, (0, 0)))

  def attend(query, key, value, ids, key_ids):
    kernel = _kernel(query.shape[1], query.shape[2], key.shape[2], interpret)
    return jax.vmap(kernel)(query, key, value, splash.SegmentIds(ids, key_ids))

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:  # the compiler does not partition a kernel
    heads = partition_spec(query, 'batch', 'heads', 'time', 'head_dim')
    rows = partition_spec(ids, 'batch', 'time')
    attend = jax.shard_map(
      attend,
      in_specs=(heads, heads, heads, rows, rows),
      out_specs=heads,
      check_vma=False,
    )
  y = jnp.asarray(attend(query, copy_prefix(key), copy_prefix(value), ids, key_ids))
  return y[:, :, :t].swapaxes(1, 2)


def _kernel(heads: int, queries: int, keys: int, interpret: bool):
  q, s = _block_size(queries, MAX_QUERIES), _block_size(keys, MAX_KEYS)
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


def _block_size(length: int, limit: int) -> int:
  """Return the largest multiple of `LANES` up to `limit` that divides `length`."""
  return max(n for n in range(LANES, limit + 1, LANES) if length % n == 0)
