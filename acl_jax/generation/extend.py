# SPDX-License-Identifier: Apache-2.0
"""What the live engine computes: sequences are extended, their next tokens sampled.

Prefill extends a few sequences by many positions, decoding extends many by one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from acl_jax.generation.sampling import sample_rows
from acl_jax.models.cache import KVCache
from acl_jax.models.llama import Llama
from acl_jax.models.paged_cache import PAGE, PagedCache, constrain_pool, copy_page

IS_AUDIO = -1  # in `Inputs.tokens`: the embedding is given
MAX_TOP_TOKENS = 20

Tensor = Array | np.ndarray  # on the device, or on the host


class Inputs(NamedTuple):
  """What extends each row of one call; rows of length 0 are padding.

  embeddings: of the positions whose token is IS_AUDIO; None if there is none.
  start: positions that precede. seed, step: determine what is sampled.
  """

  table: Int[Tensor, 'b m']
  tokens: Int[Tensor, 'b t']
  embeddings: Float[Tensor, 'b t d'] | None
  start: Int[Tensor, ' b']
  length: Int[Tensor, ' b']
  temperature: Float[Tensor, ' b']
  top_p: Float[Tensor, ' b']
  seed: UInt[Tensor, ' b']
  step: Int[Tensor, ' b']
  wants_top: Bool[Tensor, '']  # whether any request reports the likeliest tokens

  @classmethod
  def padding(cls, rows: int, length: int, pages: int, audio_size: int) -> 'Inputs':
    """Return rows of padding on the host; audio_size: 0 without embeddings."""
    return cls(
      table=np.zeros((rows, pages), np.int32),
      tokens=np.zeros((rows, length), np.int32),
      embeddings=np.zeros((rows, length, audio_size), np.float32)
      if audio_size
      else None,
      start=np.zeros(rows, np.int32),
      length=np.zeros(rows, np.int32),
      temperature=np.zeros(rows, np.float32),
      top_p=np.ones(rows, np.float32),
      seed=np.zeros(rows, np.uint32),
      step=np.zeros(rows, np.int32),
      wants_top=np.zeros((), bool),
    )


class Sampled(NamedTuple):
  """The token after each row; log-probabilities as of `LiveToken`."""

  token: Int[Tensor, ' b']
  log_prob: Float[Tensor, ' b']
  top_ids: Int[Tensor, 'b k']
  top_log_probs: Float[Tensor, 'b k']


@functools.partial(jax.jit, donate_argnames='pool')
def extend(llama: Llama, pool: KVCache, inputs: Inputs) -> tuple[KVCache, Sampled]:
  """Write the keys and values of the inputs, and sample the token after each row."""
  x = llama.embed(jnp.maximum(inputs.tokens, 0))
  if inputs.embeddings is not None:
    is_audio = (inputs.tokens == IS_AUDIO)[..., None]
    x = jnp.where(is_audio, inputs.embeddings.astype(x.dtype), x)
  t, length = inputs.tokens.shape[1], jnp.asarray(inputs.length)
  # Padding repeats the last position: some rotations depend on the largest of a row.
  offset = jnp.minimum(jnp.arange(t)[None], jnp.maximum(length - 1, 0)[:, None])
  positions = jnp.asarray(inputs.start)[:, None] + offset
  cache = PagedCache.at_positions(pool, jnp.asarray(inputs.table), positions, length)
  key_positions = jnp.arange(inputs.table.shape[1] * PAGE)
  mask = key_positions[None, None] <= positions[..., None]
  # Inputs past a row's end are computed, too; they attend to nothing.
  mask &= (jnp.arange(t)[None] < length[:, None])[..., None]
  hidden, cache = llama(x, positions, mask, cache)
  last = jnp.maximum(length - 1, 0)
  hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
  logits = llama.logits(hidden)[:, 0]
  return constrain_pool(cache.pool), _sample(logits, inputs)


def _sample(logits: Float[Array, 'b v'], inputs: Inputs) -> Sampled:
  keys = jax.vmap(jax.random.key)(inputs.seed)
  keys = jax.vmap(jax.random.fold_in)(keys, inputs.step)
  temperature, top_p = jnp.asarray(inputs.temperature), jnp.asarray(inputs.top_p)
  token = sample_rows(logits, keys, temperature, top_p)
  log_probs = jax.nn.log_softmax(logits)
  k = min(MAX_TOP_TOKENS, logits.shape[1])
  top_log_probs, top_ids = jax.lax.cond(
    inputs.wants_top,
    lambda: tuple(jax.lax.top_k(log_probs, k)),
    lambda: (jnp.zeros((len(token), k)), jnp.zeros((len(token), k), jnp.int32)),
  )
  log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
  return Sampled(token, log_prob, top_ids, top_log_probs)


@functools.partial(jax.jit, static_argnames='pages')
def empty_pool(llama: Llama, pages: int) -> KVCache:
  """Create a pool of pages that hold nothing."""
  return constrain_pool(llama.empty_cache(pages, PAGE, llama.dtype))


copy_pool_page = jax.jit(copy_page, donate_argnames='pool')
