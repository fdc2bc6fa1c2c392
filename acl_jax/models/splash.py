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
  window = packed.window
  if window is None or key.shape[2] <= window:  # no query has more keys
    return _attend_to_all(query, key, value, packed, interpret)
  if packed.ignores_window is None:
    return _attend_in_window(query, key, value, packed, interpret)
  return jax.lax.cond(
    packed.ignores_window,
    lambda *qkv: _attend_to_all(qkv[0], qkv[1], qkv[2], packed, interpret),
    lambda *qkv: _attend_in_window(qkv[0], qkv[1], qkv[2], packed, interpret),
    *(query, key, value),
  )


def _attend_to_all(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  packed: PackedCausalMask,
  interpret: bool,
) -> Float[Array, 'b t n h']:
  """Attend to all keys of the segment and to the shared prefix."""
  b, t, _, _ = query.shape
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

  query = jnp.pad(query.swapaxes(1, 2), ((0, 0), *time_padding, (0, 0)))
  key, value = copy_prefix(key), copy_prefix(value)
  y = _run_kernel(query, key, value, ids, key_ids, None, interpret)
  return y[:, :, :t].swapaxes(1, 2)


def _attend_in_window(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  packed: PackedCausalMask,
  interpret: bool,
) -> Float[Array, 'b t n h']:
  """Attend to the last keys only, as the window says.

  The kernel counts columns. So that these are positions, each segment is laid out
  behind a copy of the prefix of its own, and padding between inputs is left out.
  """
  b, t, n, h = query.shape
  prefix, ids, count = key.shape[2] - t, packed.segment_ids, packed.max_per_row
  length = prefix * count + t
  length += -length % LANES
  is_input = ids > 0
  before = jnp.cumsum(is_input, axis=1) - is_input  # inputs, in the row
  column = jnp.where(is_input, before + prefix * ids, length)  # out of bounds: dropped
  segments = jnp.arange(1, count + 1)
  starts = jnp.sum(
    is_input[..., None] & (ids[..., None] < segments[None, None]), axis=1
  )
  starts += prefix * (segments - 1)[None]
  prefix_column = (starts[..., None] + jnp.arange(prefix)[None, None]).reshape(
    b, count * prefix
  )
  prefix_ids = jnp.broadcast_to(jnp.repeat(segments, prefix)[None], prefix_column.shape)
  columns = jnp.concatenate([prefix_column, column], axis=1)
  row = jnp.arange(b)[:, None]

  def lay_out(x: Float[Array, 'b k s h']) -> Float[Array, 'b k s2 h']:
    copies = jnp.tile(x[:, :, :prefix], (1, 1, count, 1))
    x = jnp.concatenate([copies, x[:, :, prefix:]], axis=2).swapaxes(1, 2)
    empty = jnp.zeros((b, length, *x.shape[2:]), x.dtype)
    return empty.at[row, columns].set(x, mode='drop').swapaxes(1, 2)

  key_ids = jnp.full((b, length), PADDING_SEGMENT, ids.dtype)
  all_ids = jnp.concatenate([prefix_ids.astype(ids.dtype), ids], axis=1)
  key_ids = key_ids.at[row, columns].set(all_ids, mode='drop')
  query_ids = jnp.zeros((b, length), ids.dtype).at[row, column].set(ids, mode='drop')
  laid_out = jnp.zeros((b, length, n, h), query.dtype)
  laid_out = laid_out.at[row, column].set(query, mode='drop').swapaxes(1, 2)
  key, value, window = lay_out(key), lay_out(value), packed.window
  y = _run_kernel(laid_out, key, value, query_ids, key_ids, window, interpret)
  return y.swapaxes(1, 2).at[row, column].get(mode='fill', fill_value=0)


def _run_kernel(
  query: Float[Array, 'b n t h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  ids: Int[Array, 'b t'],
  key_ids: Int[Array, 'b s'],
  window: int | None,
  interpret: bool,
) -> Float[Array, 'b n t h']:
  """Run the kernel over segments, sharded over the mesh if there is one."""

  def attend(query, key, value, ids, key_ids):
    shape = query.shape[2], key.shape[2]
    kernel = _kernel(query.shape[1], *shape, window, interpret)
    return jax.vmap(kernel)(query, key, value, splash.SegmentIds(ids, key_ids))

  query = query * query.shape[-1] ** -0.5
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
  return jnp.asarray(attend(query, key, value, ids, key_ids))


def _kernel(heads: int, queries: int, keys: int, window: int | None, interpret: bool):
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
  if window is not None:
    mask = splash.LocalMask((queries, keys), (window - 1, 0), offset=keys - queries)
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
