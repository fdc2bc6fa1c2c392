# SPDX-License-Identifier: Apache-2.0
"""When each token was spoken, from a decoder's attention to the encoder frames.

The frames are divided among the tokens in order, so that tokens receive the most of
their own attention, as in dynamic time warping (Sakoe and Chiba 1978; for Whisper see
the word timestamps of Radford et al.'s code).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def align(
  weights: Float[Array, 'a n t'],
  num_tokens: Int[Array, ' a'],
  frame_mask: Bool[Array, 'a t'],
) -> Int[Array, 'a n 2']:
  """Divide frames among tokens; returns the first frame of each and the one after it.

  weights: attention of the state that predicts each token to the frames. num_tokens: of
  the n, those that take part. Every token has a frame at least, unless there are fewer
  frames than tokens. Rows beyond `num_tokens` have none.
  """
  return jax.vmap(_align_one)(weights, num_tokens, frame_mask)


def _align_one(
  weights: Float[Array, 'n t'],
  num_tokens: Int[Array, ''],
  frame_mask: Bool[Array, ' t'],
) -> Int[Array, 'n 2']:
  """The monotonic path of most attention, by dynamic programming over frames."""
  n, t = weights.shape
  tokens = jnp.arange(n)
  # Less what the mean token pays to a frame: some frames attract all of them.
  takes_part = (tokens < num_tokens)[:, None]
  mean = jnp.mean(weights, axis=0, keepdims=True, where=takes_part)
  salience = jnp.where(takes_part & frame_mask[None], weights - mean, 0)

  def advance(best, frame):
    # A frame belongs to the token of the frame before it, or to the next one.
    before = jnp.concatenate([jnp.full(1, -jnp.inf), best[:-1]])
    moved = before > best
    return jnp.where(moved, before, best) + frame, moved

  start = jnp.where(tokens == 0, salience[:, 0], -jnp.inf)
  _, moved = jax.lax.scan(advance, start, salience.T[1:])
  num_frames = jnp.sum(frame_mask)

  def step_back(token, frame):
    moved, index = frame
    token = jnp.minimum(token, jnp.maximum(num_tokens - 1, 0))
    previous = token - (moved[token] & (index < num_frames))
    return previous, token

  first, owner = jax.lax.scan(
    step_back, jnp.asarray(n - 1), (moved, jnp.arange(1, t)), reverse=True
  )
  owner = jnp.concatenate([jnp.minimum(first, num_tokens - 1)[None], owner])
  member = (owner[None] == tokens[:, None]) & frame_mask[None] & takes_part
  first = jnp.argmax(member, axis=1)
  return jnp.stack([first, first + jnp.sum(member, axis=1)], axis=1)
