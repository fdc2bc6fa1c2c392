# SPDX-License-Identifier: Apache-2.0
"""What an adapter makes of a clip: embeddings, and the tokens that it recognised."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NOTHING = 0  # class that is no token: the blank, or the end of a transcript
NUM_ALTERNATIVES = 3


class Tokens(NamedTuple):
  """Recognised tokens, at the front of the s slots.

  ids: -1 in empty slots. alternatives: the likeliest other tokens, best first; -1 if
  there are fewer. spans: first encoder frame of each token and the one after its last;
  None where the recogniser does not know.
  """

  ids: Int[Array, 'a s']
  log_probs: Float[Array, 'a s']
  alternatives: Int[Array, 'a s k']
  alternative_log_probs: Float[Array, 'a s k']
  spans: Int[Array, 'a s 2'] | None


class Recognition(NamedTuple):
  """Embeddings in the LLM's space with their mask, and the tokens if any.

  starts: the encoder frame where each embedding starts; None if it depends on all.
  """

  embeddings: Float[Array, 'a s e']
  mask: Bool[Array, 'a s']
  starts: Int[Array, 'a s'] | None
  tokens: Tokens | None


def ctc_segments(
  logits: Float[Array, 'a s c'], frame_mask: Bool[Array, 'a s']
) -> tuple[Bool[Array, 'a s'], Int[Array, 'a s']]:
  """Apply CTC's rule: drop blanks and merge repeats (Graves et al. 2006).

  Returns whether a token starts at each frame, and the index of the token that each
  frame belongs to, -1 for none.
  """
  best = jnp.where(frame_mask, jnp.argmax(logits, axis=-1), NOTHING)
  previous = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
  token = best != NOTHING
  start = token & (best != previous)
  return start, jnp.where(token, jnp.cumsum(start, axis=1) - 1, -1)


def rank_tokens(
  logits: Float[Array, 'a s c'],
  classes: Int[Array, 'a s'],
  vocabulary: Int[Array, ' v'],
  spans: Int[Array, 'a s 2'] | None = None,
) -> Tokens:
  """Return the tokens of classes, with the log-probability of each and of others.

  logits: `NOTHING` first, then the vocabulary, c = v + 1. classes: `NOTHING` in empty
  slots.
  """
  log_probs = jax.nn.log_softmax(logits, axis=-1)
  chosen = jnp.take_along_axis(log_probs, classes[..., None], axis=-1)[..., 0]
  others = jnp.arange(logits.shape[-1])[None, None]
  taken = (others == classes[..., None]) | (others == NOTHING)
  candidates = jnp.where(taken, -jnp.inf, log_probs)
  count = min(NUM_ALTERNATIVES, logits.shape[-1])
  top_log_probs, top = jax.lax.top_k(candidates, count)
  ids = vocabulary[jnp.maximum(top - 1, 0)]
  return Tokens(
    ids=jnp.where(classes == NOTHING, -1, vocabulary[jnp.maximum(classes - 1, 0)]),
    log_probs=chosen,
    alternatives=jnp.where(top_log_probs > -jnp.inf, ids, -1),
    alternative_log_probs=top_log_probs,
    spans=spans,
  )


def rank_segments(
  logits: Float[Array, 'a s c'],
  segment: Int[Array, 'a s'],
  vocabulary: Int[Array, ' v'],
  stack: int,
) -> Tokens:
  """Return the tokens of CTC segments, each ranked at its most certain frame.

  segment: index of the token that each frame belongs to, -1 for none. stack: encoder
  frames per frame of the logits.
  """
  certainty = jnp.max(jax.nn.log_softmax(logits, axis=-1), axis=-1)
  # member[a, i, j]: frame j belongs to token i.
  member = segment[:, None, :] == jnp.arange(segment.shape[1])[None, :, None]
  peak = jnp.argmax(jnp.where(member, certainty[:, None, :], -jnp.inf), axis=-1)
  at_peak = jnp.take_along_axis(logits, peak[..., None], axis=1)
  exists = jnp.any(member, axis=-1)
  classes = jnp.where(exists, jnp.argmax(at_peak, axis=-1), NOTHING)
  first = jnp.argmax(member, axis=-1)
  spans = jnp.stack([first, first + jnp.sum(member, axis=-1)], axis=-1) * stack
  return rank_tokens(at_peak, classes, vocabulary, spans)
