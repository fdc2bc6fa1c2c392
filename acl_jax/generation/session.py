# SPDX-License-Identifier: Apache-2.0
"""One conversation's key/value cache: what was read before is not read again.

All shapes are fixed when a session is made. Prompts are prefilled in chunks, so a later
turn compiles nothing, however long it is.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from acl_jax.generation import prefill_queue, slots
from acl_jax.generation.sampling import Sampling
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.cache import KVCache
from acl_jax.models.llama import Llama

CHUNK = 64  # prompt tokens prefilled at once
STEPS = 2  # tokens decoded between two looks at them


class Session:
  """Prefills prompts that extend one another, and decodes after them.

  length: the limit in tokens of a prompt and its response together, at most the
  context of the LLM. stop_ids: tokens that end a response.
  """

  def __init__(
    self, llama: Llama, length: int, stop_ids: tuple[int, ...], seed: int = 0
  ):
    self.llama, self.length, self.stop_ids = llama, length, stop_ids
    self.key = jax.random.key(seed)
    # A chunk may write padding after the last prompt token.
    self._cache = llama.empty_cache(1, length + CHUNK, llama.dtype)
    self._queue = prefill_queue.empty_queue(
      llama, 1, 1, llama.empty_cache(1, 0, llama.dtype)
    )

  def stream(
    self,
    prompt: Float[np.ndarray, 't d'],
    num_cached: int,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008
    seed: int = 0,
  ) -> Iterator[int]:
    """Yield the response's tokens as they come, the stop token included.

    prompt: embeddings. num_cached: how many of them the cache holds from the calls
    before. ValueError if the prompt leaves no space for `max_new_tokens`.
    """
    if (limit := self.length - max_new_tokens) < len(prompt):
      raise ValueError(
        f'the conversation has {len(prompt)} tokens; the limit is {limit}:'
        f' {self.length} with max_new_tokens = {max_new_tokens}'
      )
    last = len(prompt) - 1  # the first decode step computes its keys and values
    for start in range(min(num_cached, last), last, CHUNK):
      chunk = prompt[start : min(start + CHUNK, last)]
      padded = np.zeros((1, CHUNK, prompt.shape[1]), prompt.dtype)
      padded[0, : len(chunk)] = chunk
      self._cache = _prefill_chunk(self.llama, self._cache, padded, np.int32(start))
    rules = DecodeRules(self.stop_ids, sampling, steps=STEPS)
    state = slots.DecodeState(
      cache=self._cache,
      request=jnp.zeros(1, jnp.int32),
      embedding=jnp.asarray(prompt[last:], self.llama.dtype),
      position=jnp.full(1, last, jnp.int32),
      step=jnp.zeros(1, jnp.int32),
      max_new_tokens=jnp.full(1, max_new_tokens, jnp.int32),
      key=jax.random.fold_in(self.key, seed)[None],
      recent_tokens=jnp.full((1, 0), -1),
      num_admitted=jnp.int32(0),
    )
    reason = slots.CONTINUE
    while reason == slots.CONTINUE:
      state, log = slots.decode_steps(self.llama, state, self._queue, False, rules)
      self._cache = state.cache  # the state before was donated
      outputs = jax.tree.map(np.asarray, log.outputs)
      for step in range(int(log.num_steps)):
        reason = int(outputs.finish_reason[step, 0])
        yield int(outputs.token[step, 0])


@functools.partial(jax.jit, donate_argnames='cache')
def _prefill_chunk(
  llama: Llama,
  cache: KVCache,
  chunk: Float[Array, '1 t d'] | np.ndarray,
  start: Int[Array, ''] | np.ndarray,
) -> KVCache:
  """Write the keys and values of a chunk that begins at position `start`.

  Those of padding are overwritten before any query attends to them.
  """
  chunk, start = jnp.asarray(chunk), jnp.asarray(start)
  positions = start + jnp.arange(chunk.shape[1])[None]
  mask = jnp.arange(cache.length)[None, None] <= positions[..., None]
  x = chunk.astype(llama.dtype)
  return llama(x, positions, mask, cache, jnp.full(1, start))[1]
