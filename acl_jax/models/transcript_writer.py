# SPDX-License-Identifier: Apache-2.0
"""Writing a transcript: greedily, or by beam search.

All sequences of a recording attend to the same encoder frames. A beam of one is greedy
decoding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.attention_decoder import AttentionDecoder, KeysValues, Memory
from acl_jax.models.matrices import lookup, score_rows
from acl_jax.models.repetition import ends_in_repetition

END = 0  # class that ends a transcript
MAX_BEAMS = 16  # memory and time grow with them
MAX_NGRAM, REPEATS = 4, 8  # an n-gram this often in a row ends a transcript


class Beams(NamedTuple):
  """The k likeliest transcripts so far of each of a recordings; b = a k.

  scores: sums of log-probabilities, -inf of those given up. recent: the last classes,
  -1 before the first. hidden: predicts the next class.
  """

  written: Int[Array, 'b s']
  scores: Float[Array, ' b']
  done: Bool[Array, ' b']
  recent: Int[Array, 'b r']
  hidden: Float[Array, 'b d']
  cache: KeysValues


def write_transcripts(
  decoder: AttentionDecoder,
  embed_start: nnx.Param,
  embed_tokens: Any,
  memory: Memory,
  limits: Int[Array, ' a'],
  num_steps: int,
  beams: int = 1,
) -> Int[Array, 'a s']:
  """Return the classes of each recording's transcript, END after it.

  A transcript ends with END, at its limit of tokens, or when it repeats itself. Of
  several the one of the highest mean log-probability is returned, which is final when
  no unfinished one has a higher mean.
  """
  a, start_length = len(limits), len(embed_start[...])
  limits = jnp.repeat(limits, beams)
  state = _start(decoder, embed_start[...], memory, limits, num_steps)

  def goes_on(loop) -> Bool[Array, '']:
    step, state = loop
    return (step < num_steps) & ~jnp.all(state.done)

  def write_one(loop):
    step, state = loop
    logits = score_rows(state.hidden, embed_tokens)
    if beams == 1:
      best = jnp.argmax(logits, axis=-1)
      best = jnp.where(state.done | (step >= limits), END, best)
    else:
      best, state = _choose(state, logits, state.done | (step >= limits), beams)
    written = jax.lax.dynamic_update_slice(state.written, best[:, None], (0, step))
    recent = jnp.concatenate([state.recent[:, 1:], best[:, None]], axis=1)
    repeats = ends_in_repetition(recent, REPEATS)
    state = state._replace(written=written, recent=recent, done=(best == END) | repeats)
    if beams > 1:
      state = _give_up(state, repeats, beams)
    x = lookup(embed_tokens, best[:, None])
    hidden, cache = decoder.decode(x, memory, state.cache, start_length + step)
    return step + 1, state._replace(hidden=hidden[:, 0], cache=cache)

  _, state = jax.lax.while_loop(goes_on, write_one, (0, state))
  if beams == 1:
    return state.written
  best = jnp.argmax(_means(state).reshape(a, beams), axis=1)
  return state.written.reshape(a, beams, num_steps)[jnp.arange(a), best]


def _start(
  decoder: AttentionDecoder,
  embed_start: Float[Array, 'p d'],
  memory: Memory,
  limits: Int[Array, ' b'],
  num_steps: int,
) -> Beams:
  """Return beams after the embeddings that start every sequence."""
  b, beams = len(limits), len(limits) // len(memory.mask)
  x = jnp.broadcast_to(embed_start[None], (b, *embed_start.shape))
  cache = decoder.empty_cache(memory, len(embed_start) + num_steps, beams)
  hidden, cache = decoder.decode(x.astype(cache.keys.dtype), memory, cache)
  # The beams of a recording start equal, so all but one are given up.
  scores = jnp.where(jnp.arange(b) % beams == 0, 0, -jnp.inf)
  return Beams(
    jnp.full((b, num_steps), END),
    scores.astype(jnp.float32),
    limits == 0,
    jnp.full((b, MAX_NGRAM * REPEATS), -1),
    hidden[:, -1],
    cache,
  )


def _choose(
  state: Beams, logits: Float[Array, 'b c'], ended: Bool[Array, ' b'], k: int
) -> tuple[Int[Array, ' b'], Beams]:
  """Return the next classes of the k best continuations, and what they continue."""
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  values, classes = jax.lax.top_k(log_probs, min(k, logits.shape[-1]))
  # A transcript that has ended has one continuation, END, which costs nothing.
  values = jnp.where(ended[:, None], -jnp.inf, values)
  values = values.at[:, 0].set(jnp.where(ended, 0, values[:, 0]))
  classes = jnp.where(ended[:, None], END, classes)
  scores = (state.scores[:, None] + values).reshape(len(ended) // k, -1)
  scores, best = jax.lax.top_k(scores, k)
  parents = best // classes.shape[1] + k * jnp.arange(len(scores))[:, None]
  parents, classes = parents.reshape(-1), classes.reshape(len(scores), -1)
  chosen = jnp.take_along_axis(classes, best, axis=1).reshape(-1)
  return chosen, Beams(
    state.written[parents],
    scores.reshape(-1),
    state.done[parents],
    state.recent[parents],
    state.hidden[parents],
    jax.tree.map(lambda x: x[:, parents], state.cache),
  )


def _give_up(state: Beams, repeats: Bool[Array, ' b'], k: int) -> Beams:
  """Give up what repeats itself, and what cannot become better than the best."""
  scores = jnp.where(repeats, -jnp.inf, state.scores)
  means = _means(state._replace(scores=scores)).reshape(-1, k)
  done = state.done.reshape(-1, k)
  finished = jnp.max(jnp.where(done, means, -jnp.inf), axis=1, keepdims=True)
  settled = jnp.all((means <= finished) | done, axis=1, keepdims=True)
  hopeless = (settled & ~done).reshape(-1)
  return state._replace(
    scores=jnp.where(hopeless, -jnp.inf, scores), done=state.done | hopeless
  )


def _means(state: Beams) -> Float[Array, ' b']:
  """Return the mean log-probability of the classes of each, with one END."""
  return state.scores / (jnp.sum(state.written != END, axis=1) + 1)
