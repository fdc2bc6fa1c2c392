# SPDX-License-Identifier: Apache-2.0
"""The waiting room: prompts that were read, on the device, until a slot is free.

Requests are numbered as they come; number n waits in row n modulo the size of the room.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from acl_jax.models.cache import KVCache
from acl_jax.models.llama import Llama
from acl_jax.models.speech_llm import causal_segment_mask


class PrefillQueue(NamedTuple):
  """Prompts that were read and wait for a slot."""

  cache: KVCache  # [l w k s h], in each row the prefix first
  x: Float[Array, 'w d']  # the last embedding: the first that a slot will decode
  position: Int[Array, ' w']  # of `x`
  limit: Int[Array, ' w']  # how long the response may be
  key: Key[Array, ' w']
  arrived: Int[Array, '']  # how many requests ever


@jax.jit
def prefill_prefix(llama: Llama, tokens: Int[Array, ' p']) -> KVCache:
  """The keys and values of the tokens that all prompts begin with, if there are any."""
  x = llama.embed(tokens[None])
  if not tokens.size:
    return llama.empty_cache(1, 0, x.dtype)
  return llama(x, *causal_segment_mask(jnp.ones(x.shape[:2], jnp.int32)))[1]


@functools.partial(jax.jit, donate_argnames='room')
def prefill(
  llama: Llama,
  prefix: KVCache,
  room: PrefillQueue,
  prompts: Int[Array, 'g t'] | Float[Array, 'g t d'],
  length: Int[Array, ' g'],
  limit: Int[Array, ' g'],
  key: Key[Array, ' g'],
) -> PrefillQueue:
  """Reads a group of prompts, what of them is behind the prefix, into the room.

  Those come first that are any; the others have length 0. There must be room for them.
  """
  x = llama.embed(prompts) if prompts.ndim == 2 else prompts.astype(room.x.dtype)
  (g, t), start = x.shape[:2], prefix.places
  positions, mask = causal_segment_mask(
    (jnp.arange(t)[None] < length[:, None]).astype(jnp.int32)
  )
  mask = jnp.pad(mask, ((0, 0), (0, 0), (start, 0)), constant_values=True)
  _, own = llama(x, positions + start, mask, prefix=prefix)
  size, last = len(room.position), jnp.maximum(length - 1, 0)
  place = (room.arrived + jnp.arange(g)) % size
  place = jnp.where(length > 0, place, size)  # beyond: written nowhere
  return PrefillQueue(
    cache=jax.tree.map(
      lambda row, new: row.at[:, place, :, start : start + t].set(new), room.cache, own
    ).cut(),
    x=room.x.at[place].set(x[jnp.arange(g), last]),
    position=room.position.at[place].set(start + last),
    limit=room.limit.at[place].set(limit),
    key=room.key.at[place].set(key),
    arrived=room.arrived + jnp.sum(length > 0),
  )


@functools.partial(jax.jit, static_argnames=('size', 'length'))
def empty_queue(llama: Llama, size: int, length: int, prefix: KVCache) -> PrefillQueue:
  """Room for prompts that have `length` tokens at most, the prefix included."""
  return PrefillQueue(
    cache=jax.tree.map(
      lambda row, start: row.at[:, :, :, : start.shape[3]].set(start),
      llama.empty_cache(size, length, llama.dtype),
      prefix,
    ).cut(),
    x=jnp.zeros((size, llama.config.hidden_size), llama.dtype),
    position=jnp.zeros(size, jnp.int32),
    limit=jnp.zeros(size, jnp.int32),
    key=jax.random.split(jax.random.key(0), size),
    arrived=jnp.int32(0),
  )
