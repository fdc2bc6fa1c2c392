# SPDX-License-Identifier: Apache-2.0
"""The prefill queue: prefilled prompts that wait, on the device, for a free slot.

Requests are numbered in order of arrival; request n is in row n modulo the queue size.
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
  """Prefilled prompts that wait for a slot."""

  cache: KVCache  # [l w k s h], every row begins with the shared prefix
  embedding: Float[Array, 'w d']  # of the last prompt token: a slot's first input
  position: Int[Array, ' w']  # of `embedding`
  max_new_tokens: Int[Array, ' w']
  key: Key[Array, ' w']
  num_prefilled: Int[Array, '']  # requests so far


@jax.jit
def prefill_prefix(llama: Llama, tokens: Int[Array, ' p']) -> KVCache:
  """Return the keys and values of the shared prefix, which may be empty."""
  x = llama.embed(tokens[None])
  if not tokens.size:
    return llama.empty_cache(1, 0, x.dtype)
  return llama(x, *causal_segment_mask(jnp.ones(x.shape[:2], jnp.int32)))[1]


@functools.partial(jax.jit, donate_argnames='queue')
def prefill(
  llama: Llama,
  shared_prefix: KVCache,
  queue: PrefillQueue,
  prompts: Int[Array, 'g t'] | Float[Array, 'g t d'],
  lengths: Int[Array, ' g'],
  max_new_tokens: Int[Array, ' g'],
  keys: Key[Array, ' g'],
) -> PrefillQueue:
  """Prefill a group of prompts, without their shared prefix, into the queue.

  Real prompts come first; padding prompts have length 0. The queue must have space.
  """
  x = (
    llama.embed(prompts) if prompts.ndim == 2 else prompts.astype(queue.embedding.dtype)
  )
  (g, t), start = x.shape[:2], shared_prefix.length
  positions, mask = causal_segment_mask(
    (jnp.arange(t)[None] < lengths[:, None]).astype(jnp.int32)
  )
  mask = jnp.pad(mask, ((0, 0), (0, 0), (start, 0)), constant_values=True)
  _, prompt_cache = llama(x, positions + start, mask, prefix_cache=shared_prefix)
  size, last = len(queue.position), jnp.maximum(lengths - 1, 0)
  row = (queue.num_prefilled + jnp.arange(g)) % size
  row = jnp.where(lengths > 0, row, size)  # out of bounds: padding is not written
  return PrefillQueue(
    cache=jax.tree.map(
      lambda rows, new: rows.at[:, row, :, start : start + t].set(new),
      queue.cache,
      prompt_cache,
    ).constrain(),
    embedding=queue.embedding.at[row].set(x[jnp.arange(g), last]),
    position=queue.position.at[row].set(start + last),
    max_new_tokens=queue.max_new_tokens.at[row].set(max_new_tokens),
    key=queue.key.at[row].set(keys),
    num_prefilled=queue.num_prefilled + jnp.sum(lengths > 0),
  )


@functools.partial(jax.jit, static_argnames=('size', 'length'))
def empty_queue(
  llama: Llama, size: int, length: int, shared_prefix: KVCache
) -> PrefillQueue:
  """Return an empty queue of `size` rows.

  length: of a row in tokens, the shared prefix included.
  """
  return PrefillQueue(
    cache=jax.tree.map(
      lambda rows, prefix: rows.at[:, :, :, : prefix.shape[3]].set(prefix),
      llama.empty_cache(size, length, llama.dtype),
      shared_prefix,
    ).constrain(),
    embedding=jnp.zeros((size, llama.config.hidden_size), llama.dtype),
    position=jnp.zeros(size, jnp.int32),
    max_new_tokens=jnp.zeros(size, jnp.int32),
    key=jax.random.split(jax.random.key(0), size),
    num_prefilled=jnp.int32(0),
  )
