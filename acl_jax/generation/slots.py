# SPDX-License-Identifier: Apache-2.0
"""Decoding in slots, all on the device: admit a prompt, emit tokens, free the slot.

`decode_steps` decodes one token per slot and step. Whenever a slot is free and a prompt
waits, the prompt's keys and values are copied from the prefill queue into the slot's
row of the cache. Nothing here waits for the host, which may be several calls ahead.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from acl_jax.generation.prefill_queue import PrefillQueue
from acl_jax.generation.sampling import Sampling, sample
from acl_jax.models.cache import KVCache
from acl_jax.models.llama import Llama
from acl_jax.models.repetition import ends_in_repetition

FREE = -1  # `request` of a free slot
CONTINUE, STOP, LENGTH, REPETITION = range(4)  # finish reasons
MAX_NGRAM = 8  # longest n-gram that counts as a repetition
CACHE_DTYPES = ('', 'int8')
MAX_FREE_FRACTION = 1 / 16  # of the slots; with more, a call ends to get more prompts


@dataclasses.dataclass(frozen=True)
class DecodeRules:
  """Decoding settings that all requests share; each value is compiled in.

  stop_ids: any of these tokens ends a response. num_top_tokens: report the likeliest
  tokens, this many at each step. repeats: an n-gram this often in a row ends a
  response; 0 for never. steps: decode steps per call of `decode_steps`. cache_dtype: of
  keys and values; empty for the model's, `int8` for half the memory of bfloat16.
  """

  stop_ids: tuple[int, ...] = ()
  sampling: Sampling = Sampling()  # noqa: RUF009
  num_top_tokens: int = 0
  repeats: int = 0
  steps: int = 8
  cache_dtype: str = ''

  def __post_init__(self):
    if self.cache_dtype not in CACHE_DTYPES:
      raise ValueError(f'cache_dtype is {self.cache_dtype!r}; it must be empty or int8')


class DecodeState(NamedTuple):
  """The responses being decoded, one per slot."""

  cache: KVCache  # [l b k s h]
  request: Int[Array, ' b']  # request number, or FREE
  embedding: Float[Array, 'b d']  # next input
  position: Int[Array, ' b']  # of `embedding`; s, past the cache, in a free slot
  step: Int[Array, ' b']  # index of the next token in its response
  max_new_tokens: Int[Array, ' b']
  key: Key[Array, ' b']
  recent_tokens: Int[Array, 'b r']  # as `ends_in_repetition` takes them
  num_admitted: Int[Array, '']  # requests so far


class StepOutput(NamedTuple):
  """Output of one decode step; meaningless in slots where `request` is FREE."""

  request: Int[Array, ' b']
  token: Int[Array, ' b']
  finish_reason: Int[Array, ' b']  # CONTINUE unless this is the last token
  log_prob: Float[Array, ' b']  # the model's own, before temperature and truncation
  top_ids: Int[Array, 'b k']
  top_log_probs: Float[Array, 'b k']


class DecodeLog(NamedTuple):
  """Output of one call of `decode_steps`."""

  outputs: StepOutput  # of every step, [u b] and [u b k]; the first `num_steps` count
  num_steps: Int[Array, '']
  num_admitted: Int[Array, '']  # requests so far


@functools.partial(jax.jit, static_argnames=('size', 'length', 'rules'))
def empty_state(
  llama: Llama, size: int, length: int, rules: DecodeRules
) -> DecodeState:
  """Return `size` free slots with a cache of `length` tokens each."""
  return DecodeState(
    cache=llama.empty_cache(size, length, rules.cache_dtype or llama.dtype).constrain(),
    request=jnp.full(size, FREE),
    embedding=jnp.zeros((size, llama.config.hidden_size), llama.dtype),
    position=jnp.full(size, length),
    step=jnp.zeros(size, jnp.int32),
    max_new_tokens=jnp.zeros(size, jnp.int32),
    key=jax.random.split(jax.random.key(0), size),
    recent_tokens=jnp.full((size, rules.repeats * MAX_NGRAM), -1),
    num_admitted=jnp.int32(0),
  )


@functools.partial(jax.jit, static_argnames='rules', donate_argnames='state')
def decode_steps(
  llama: Llama,
  state: DecodeState,
  queue: PrefillQueue,
  more_requests: Bool[Array, ''],
  rules: DecodeRules,
) -> tuple[DecodeState, DecodeLog]:
  """Decode up to `rules.steps` tokens per slot; refill free slots from the queue.

  more_requests: whether the host has prompts that are not in the queue yet. If so, the
  call ends early once the queue is empty and too many slots are free. It always ends
  when all slots are free.
  """
  decode = functools.partial(_decode_step, rules=rules)
  _, output = jax.eval_shape(decode, llama, state)
  outputs = jax.tree.map(lambda x: jnp.zeros((rules.steps, *x.shape), x.dtype), output)

  def should_continue(carry) -> Bool[Array, '']:
    state, _, step = carry
    num_free, size = jnp.sum(state.request == FREE), len(state.request)
    starved = (
      more_requests
      & (state.num_admitted == queue.num_prefilled)
      & (num_free > int(size * MAX_FREE_FRACTION))
    )
    return (step < rules.steps) & (num_free < size) & ~starved

  def decode_and_admit(carry):
    state, outputs, step = carry
    state, output = _decode_step(llama, state, rules)
    outputs = jax.tree.map(lambda all, new: all.at[step].set(new), outputs, output)
    return _admit(state, queue), outputs, step + 1

  carry = _admit(state, queue), outputs, jnp.int32(0)
  state, outputs, step = jax.lax.while_loop(should_continue, decode_and_admit, carry)
  return state, DecodeLog(outputs, step, state.num_admitted)


def _admit(state: DecodeState, queue: PrefillQueue) -> DecodeState:
  """Move waiting prompts into free slots, in order, until either runs out."""

  def can_admit(state: DecodeState) -> Bool[Array, '']:
    return (state.request == FREE).any() & (state.num_admitted < queue.num_prefilled)

  def admit_next(state: DecodeState) -> DecodeState:
    slot = jnp.argmax(state.request == FREE)
    row = state.num_admitted % len(queue.position)

    def read_row(waiting):
      return jax.lax.dynamic_slice_in_dim(waiting, row, 1, axis=1)

    def write_slot(all_slots, prompt):
      return jax.lax.dynamic_update_slice(all_slots, prompt, (0, slot, 0, 0, 0))

    prompt = state.cache.quantise_like(*jax.tree.map(read_row, queue.cache))
    return DecodeState(
      cache=jax.tree.map(write_slot, state.cache, prompt),
      request=state.request.at[slot].set(state.num_admitted),
      embedding=state.embedding.at[slot].set(queue.embedding[row]),
      position=state.position.at[slot].set(queue.position[row]),
      step=state.step.at[slot].set(0),
      max_new_tokens=state.max_new_tokens.at[slot].set(queue.max_new_tokens[row]),
      key=state.key.at[slot].set(queue.key[row]),
      recent_tokens=state.recent_tokens.at[slot].set(-1),
      num_admitted=state.num_admitted + 1,
    )

  return jax.lax.while_loop(can_admit, admit_next, state)


def _decode_step(
  llama: Llama, state: DecodeState, rules: DecodeRules
) -> tuple[DecodeState, StepOutput]:
  """Decode one token in every slot; free the slots whose response ends with it."""
  length = state.cache.length
  occupied = (state.position < length)[:, None]  # free slots attend to nothing
  mask = ((jnp.arange(length)[None] <= state.position[:, None]) & occupied)[:, None]
  hidden, cache = llama(
    state.embedding[:, None],
    state.position[:, None],
    mask,
    state.cache,
    state.position,
  )
  logits = llama.logits(hidden)[:, 0]
  keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
  token = sample(logits, keys, rules.sampling)
  log_probs = jax.nn.log_softmax(logits)
  top_log_probs, top_ids = jax.lax.top_k(log_probs, rules.num_top_tokens)
  recent_tokens, step = state.recent_tokens, state.step + 1
  finish_reason = jnp.where(step >= state.max_new_tokens, LENGTH, CONTINUE)
  if rules.repeats:
    recent_tokens = jnp.concatenate([recent_tokens[:, 1:], token[:, None]], axis=1)
    repeated = ends_in_repetition(recent_tokens, rules.repeats)
    finish_reason = jnp.where(repeated, REPETITION, finish_reason)
  stop_ids = jnp.array([rules.stop_ids], jnp.int32)
  stopped = (token[:, None] == stop_ids).any(axis=1)
  finish_reason = jnp.where(stopped, STOP, finish_reason)
  output = StepOutput(
    request=state.request,
    token=token,
    finish_reason=finish_reason,
    log_prob=jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0],
    top_ids=top_ids,
    top_log_probs=top_log_probs,
  )
  live = (state.request != FREE) & (finish_reason == CONTINUE)
  state = state._replace(
    cache=cache.constrain(),
    request=jnp.where(live, state.request, FREE),
    embedding=llama.embed(token),
    # Past the cache in free slots: nothing is written there.
    position=jnp.where(live, state.position + 1, length),
    step=step,
    recent_tokens=recent_tokens,
  )
  return state, output
