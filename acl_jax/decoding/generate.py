# SPDX-License-Identifier: Apache-2.0
"""Batched greedy or sampled generation over a static key/value cache.

A prompt is a row of embeddings, `valid` where there is signal; what stands in padding
and holes, wherever they are, changes nothing. The prompts have the cache's first t
slots, the token generated at step i has slot t + i.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from acl_jax.models.llama import Cache, Llama


class Generated(NamedTuple):
  """The responses, each with the stop token that ended it; zeros follow after it."""

  tokens: Int[Array, 'b u']
  lengths: Int[Array, ' b']
  log_probs: Float[Array, 'b u']  # the model's own, whatever the temperature
  top_ids: Int[Array, 'b u k']
  top_log_probs: Float[Array, 'b u k']


class _State(NamedTuple):
  step: Int[Array, '']  # of the next token
  token: Int[Array, ' b']  # the last one
  done: Bool[Array, ' b']
  cache: Cache
  generated: Generated


@functools.partial(
  jax.jit, static_argnames=('max_new_tokens', 'stop_ids', 'temperature', 'top_k')
)
def generate(
  llama: Llama,
  x: Float[Array, 'b t d'],
  valid: Bool[Array, 'b t'],
  key: Key[Array, '*b'],
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
  temperature: float = 0.0,
  top_k: int = 0,
) -> Generated:
  """Continues every prompt until a stop token or for `max_new_tokens`.

  key: one, or one per row, so that a response does not depend on its neighbours.
  temperature: 0 takes the likeliest token.
  top_k: how many of the likeliest tokens to return at each step, whichever was taken.
  """
  keys = key if key.ndim else jax.random.split(key, len(x))
  take = functools.partial(
    _take, keys=keys, stop_ids=stop_ids, temperature=temperature, top_k=top_k
  )

  def unfinished(state: _State) -> Bool[Array, '']:
    return (state.step < max_new_tokens) & ~state.done.all()

  def advance(state: _State) -> _State:
    logits, cache = _step(llama, state.token, valid, state.cache, state.step - 1)
    return take(state._replace(cache=cache), logits)

  logits, cache = _prefill(llama, x, valid, max_new_tokens)
  state = take(_start(cache, (len(x), max_new_tokens), top_k), logits)
  return jax.lax.while_loop(unfinished, advance, state).generated


def stream(
  llama: Llama,
  x: Float[Array, '1 t d'],
  valid: Bool[Array, '1 t'],
  key: Key[Array, ''],
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
  temperature: float = 0.0,
) -> Iterator[int]:
  """The tokens of one response as they come, the stop token included."""
  logits, cache = _jitted_prefill(llama, x, valid, max_new_tokens)
  for step in range(max_new_tokens):
    token = _jitted_choose(logits, key[None], step, temperature)
    yield int(token[0])
    if int(token[0]) in stop_ids:
      return
    logits, cache = _jitted_step(llama, token, valid, cache, step)


def _prefill(
  llama: Llama, x: Float[Array, 'b t d'], valid: Bool[Array, 'b t'], room: int
) -> tuple[Float[Array, 'b v'], Cache]:
  """Scores of the first new token, and a cache with `room` for more."""
  t, context = x.shape[1], llama.config.max_position_embeddings
  if t + room > context:
    raise ValueError(
      f'a prompt of {t} and {room} new tokens exceed the context of {context}'
    )
  x = jnp.where(valid[:, :, None], x, 0)  # a NaN would get through the mask
  positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  mask = jnp.tril(jnp.ones((1, t, t), bool)) & valid[:, None]
  hidden, cache = llama(x, positions, mask)
  padding = [(0, 0), (0, 0), (0, room), (0, 0), (0, 0)]
  cache = jax.tree.map(lambda c: jnp.pad(c, padding), cache)
  last = t - 1 - jnp.argmax(valid[:, ::-1], axis=1)
  hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
  return llama.logits(hidden)[:, 0], cache


def _step(
  llama: Llama,
  token: Int[Array, ' b'],
  valid: Bool[Array, 'b t'],
  cache: Cache,
  step: int | Int[Array, ''],
) -> tuple[Float[Array, 'b v'], Cache]:
  """Scores of the token after `token`, which was generated at `step`."""
  b, t = valid.shape
  room = cache.key.shape[2] - t
  generated = jnp.broadcast_to(jnp.arange(room) <= step, (b, room))
  mask = jnp.concatenate([valid, generated], axis=1)[:, None]
  positions = (valid.sum(axis=1) + step)[:, None]
  x = llama.embed(token[:, None]).astype(cache.key.dtype)
  hidden, cache = llama(x, positions, mask, cache, t + step)
  return llama.logits(hidden)[:, 0], cache


def _choose(
  logits: Float[Array, 'b v'],
  keys: Key[Array, ' b'],
  step: int | Int[Array, ''],
  temperature: float,
) -> Int[Array, ' b']:
  """The likeliest token at temperature 0, else a random one."""
  if temperature == 0:
    return jnp.argmax(logits, axis=1).astype(jnp.int32)
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
  token = jax.vmap(jax.random.categorical)(keys, logits / temperature)
  return token.astype(jnp.int32)


def _start(cache: Cache, shape: tuple[int, int], top_k: int) -> _State:
  b, u = shape
  nothing = Generated(
    tokens=jnp.zeros((b, u), jnp.int32),
    lengths=jnp.zeros(b, jnp.int32),
    log_probs=jnp.zeros((b, u)),
    top_ids=jnp.zeros((b, u, top_k), jnp.int32),
    top_log_probs=jnp.zeros((b, u, top_k)),
  )
  token, done = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
  return _State(jnp.int32(0), token, done, cache, nothing)


def _take(
  state: _State,
  logits: Float[Array, 'b v'],
  *,
  keys: Key[Array, ' b'],
  stop_ids: tuple[int, ...],
  temperature: float,
  top_k: int,
) -> _State:
  """Chooses the next token of each row and writes it down, unless the row is done."""
  token = _choose(logits, keys, state.step, temperature)
  log_probs = jax.nn.log_softmax(logits)
  log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
  top_log_probs, top_ids = jax.lax.top_k(log_probs, top_k)

  def write(buffer, value):
    done = state.done.reshape(-1, *[1] * (value.ndim - 1))
    return buffer.at[:, state.step].set(jnp.where(done, 0, value))

  before = state.generated
  generated = Generated(
    tokens=write(before.tokens, token),
    lengths=before.lengths + ~state.done,
    log_probs=write(before.log_probs, log_prob),
    top_ids=write(before.top_ids, top_ids),
    top_log_probs=write(before.top_log_probs, top_log_probs),
  )
  stops = jnp.array([stop_ids], jnp.int32)
  done = state.done | (token[:, None] == stops).any(axis=1)
  return _State(state.step + 1, token, done, state.cache, generated)


_jitted_prefill = jax.jit(_prefill, static_argnames='room')
_jitted_step = jax.jit(_step, donate_argnames='cache')
_jitted_choose = jax.jit(_choose, static_argnames='temperature')
