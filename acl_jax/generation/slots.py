# SPDX-License-Identifier: Apache-2.0
"""A slot's life, all of it on the device: a prompt enters, tokens leave, it is free.

`advance` decodes; whenever a slot is free and a prompt waits, the prompt's keys and
values are copied from the waiting room into the slot's row of the cache. Nothing here
asks the host, which may be several calls ahead.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from acl_jax.generation.prefill_queue import PrefillQueue
from acl_jax.generation.sampling import Sampling, ends_in_repetition, sample
from acl_jax.models.cache import KVCache
from acl_jax.models.llama import Llama

FREE = -1  # the request of a slot that has none
CONTINUE, STOP, LENGTH, REPETITION = range(4)  # after a token
NGRAM = 8  # the longest that counts as a repetition
CACHES = ('', 'int8')
MAX_FREE_SHARE = (
  16  # one slot of so many may be free before the host is asked for prompts
)


@dataclasses.dataclass(frozen=True)
class DecodeRules:
  """How to decode, for all requests alike; a value is compiled in.

  stop_ids: any of these ends a response. top: how many of the likeliest tokens to tell
  of at each step. repeats: an n-gram that often in a row ends a response, 0 for never.
  steps: of one call of `advance`. cache_dtype: of the keys and values; empty is the
  model's, `int8` needs half of bfloat16's memory.
  """

  stop_ids: tuple[int, ...] = ()
  sampling: Sampling = Sampling()  # noqa: RUF009
  top: int = 0
  repeats: int = 0
  steps: int = 8
  cache_dtype: str = ''

  def __post_init__(self):
    if self.cache_dtype not in CACHES:
      raise ValueError(f'cache_dtype is {self.cache_dtype!r}, should be empty or int8')


class DecodeState(NamedTuple):
  """The responses that grow, one in each slot."""

  cache: KVCache  # [l b k s h]
  request: Int[Array, ' b']  # its number, or FREE
  x: Float[Array, 'b d']  # the embedding to decode next
  position: Int[Array, ' b']  # of `x`; beyond the cache where no request is
  step: Int[Array, ' b']  # of the next token in its response
  limit: Int[Array, ' b']
  key: Key[Array, ' b']
  recent: Int[Array, 'b r']  # the last tokens, as `repeats` wants them
  started: Int[Array, '']  # how many requests ever


class StepOutput(NamedTuple):
  """What a step says of each slot; nothing where `request` is FREE."""

  request: Int[Array, ' b']
  token: Int[Array, ' b']
  ending: Int[Array, ' b']  # GOES_ON, or why this was the last token
  log_prob: Float[Array, ' b']  # the model's own, whatever the temperature
  top_ids: Int[Array, 'b k']
  top_log_probs: Float[Array, 'b k']


class DecodeLog(NamedTuple):
  """What happened in a call of `advance`."""

  said: StepOutput  # of every step: [u b], [u b k]
  steps: Int[Array, '']  # how many there were
  started: Int[Array, '']  # how many requests ever


@functools.partial(jax.jit, static_argnames=('size', 'length', 'rules'))
def empty_state(
  llama: Llama, size: int, length: int, rules: DecodeRules
) -> DecodeState:
  """Free slots with a cache of `length`."""
  return DecodeState(
    cache=llama.empty_cache(size, length, rules.cache_dtype or llama.dtype).cut(),
    request=jnp.full(size, FREE),
    x=jnp.zeros((size, llama.config.hidden_size), llama.dtype),
    position=jnp.full(size, length),
    step=jnp.zeros(size, jnp.int32),
    limit=jnp.zeros(size, jnp.int32),
    key=jax.random.split(jax.random.key(0), size),
    recent=jnp.full((size, rules.repeats * NGRAM), -1),
    started=jnp.int32(0),
  )


@functools.partial(jax.jit, static_argnames='rules', donate_argnames='slots')
def decode_steps(
  llama: Llama,
  slots: DecodeState,
  room: PrefillQueue,
  more: Bool[Array, ''],
  rules: DecodeRules,
) -> tuple[DecodeState, DecodeLog]:
  """Decodes for some steps; a slot that gets free is refilled from the room at once.

  more: whether requests will arrive. If so, it ends early for want of them; and always
  when all is said.
  """
  _, said = jax.eval_shape(functools.partial(_decode, rules=rules), llama, slots)
  log = jax.tree.map(lambda x: jnp.zeros((rules.steps, *x.shape), x.dtype), said)

  def goes_on(carry) -> Bool[Array, '']:
    slots, _, step = carry
    free = jnp.sum(slots.request == FREE)
    size = len(slots.request)
    starved = more & (slots.started == room.arrived) & (free > size // MAX_FREE_SHARE)
    return (step < rules.steps) & (free < size) & ~starved

  def go(carry):
    slots, log, step = carry
    slots, said = _decode(llama, slots, rules)
    log = jax.tree.map(lambda all, new: all.at[step].set(new), log, said)
    return _admit(slots, room), log, step + 1

  carry = _admit(slots, room), log, jnp.int32(0)
  slots, log, steps = jax.lax.while_loop(goes_on, go, carry)
  return slots, DecodeLog(log, steps, slots.started)


def _admit(slots: DecodeState, room: PrefillQueue) -> DecodeState:
  """Lets those in who wait, in their order, as long as there are free slots."""

  def possible(slots: DecodeState) -> Bool[Array, '']:
    return (slots.request == FREE).any() & (slots.started < room.arrived)

  def enter(slots: DecodeState) -> DecodeState:
    slot = jnp.argmax(slots.request == FREE)
    place = slots.started % len(room.position)

    def copy(rows, row):
      return jax.lax.dynamic_update_slice(rows, row, (0, slot, 0, 0, 0))

    def row(waiting):
      return jax.lax.dynamic_slice_in_dim(waiting, place, 1, axis=1)

    prompt = slots.cache.rounded(*jax.tree.map(row, room.cache))

    return DecodeState(
      cache=jax.tree.map(copy, slots.cache, prompt),
      request=slots.request.at[slot].set(slots.started),
      x=slots.x.at[slot].set(room.x[place]),
      position=slots.position.at[slot].set(room.position[place]),
      step=slots.step.at[slot].set(0),
      limit=slots.limit.at[slot].set(room.limit[place]),
      key=slots.key.at[slot].set(room.key[place]),
      recent=slots.recent.at[slot].set(-1),
      started=slots.started + 1,
    )

  return jax.lax.while_loop(possible, enter, slots)


def _decode(
  llama: Llama, slots: DecodeState, rules: DecodeRules
) -> tuple[DecodeState, StepOutput]:
  """One token for every slot; those whose last it was are free."""
  places = slots.cache.places
  here = (slots.position < places)[:, None]  # a free slot sees nothing
  mask = ((jnp.arange(places)[None] <= slots.position[:, None]) & here)[:, None]
  hidden, cache = llama(
    slots.x[:, None], slots.position[:, None], mask, slots.cache, slots.position
  )
  logits = llama.logits(hidden)[:, 0]
  keys = jax.vmap(jax.random.fold_in)(slots.key, slots.step)
  token = sample(logits, keys, rules.sampling)
  log_probs = jax.nn.log_softmax(logits)
  top_log_probs, top_ids = jax.lax.top_k(log_probs, rules.top)
  recent, step = slots.recent, slots.step + 1
  ending = jnp.where(step >= slots.limit, LENGTH, CONTINUE)
  if rules.repeats:
    recent = jnp.concatenate([recent[:, 1:], token[:, None]], axis=1)
    ending = jnp.where(ends_in_repetition(recent, rules.repeats), REPETITION, ending)
  stops = jnp.array([rules.stop_ids], jnp.int32)
  ending = jnp.where((token[:, None] == stops).any(axis=1), STOP, ending)
  said = StepOutput(
    request=slots.request,
    token=token,
    ending=ending,
    log_prob=jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0],
    top_ids=top_ids,
    top_log_probs=top_log_probs,
  )
  live = (slots.request != FREE) & (ending == CONTINUE)
  slots = slots._replace(
    cache=cache.cut(),
    request=jnp.where(live, slots.request, FREE),
    x=llama.embed(token),
    position=jnp.where(live, slots.position + 1, places),  # there nothing is written
    step=step,
    recent=recent,
  )
  return slots, said
