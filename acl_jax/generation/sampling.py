# SPDX-License-Identifier: Apache-2.0
"""How the next token is chosen from its scores."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Temperature 0 takes the likeliest token, another draws one.

  top_k: draw from so many of the likeliest, 0 for all. top_p: and from no more of these
  than it takes to have this share of their probability.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    if not 0 <= self.temperature < float('inf'):
      raise ValueError(f'temperature is {self.temperature}, should be at least 0')
    if self.top_k < 0:
      raise ValueError(f'top_k is {self.top_k}, should be at least 0')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'top_p is {self.top_p}, should be above 0 and at most 1')


def sample(
  logits: Float[Array, 'b v'], keys: Key[Array, ' b'], how: Sampling
) -> Int[Array, ' b']:
  """The next token of each row, drawn with the row's own key."""
  if how.temperature == 0:
    return jnp.argmax(logits, axis=1).astype(jnp.int32)
  logits = logits / how.temperature
  if how.top_k or how.top_p < 1:
    logits = jnp.where(logits >= _min_kept_logit(logits, how), logits, -jnp.inf)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _min_kept_logit(logits: Float[Array, 'b v'], how: Sampling) -> Float[Array, 'b 1']:
  """The lowest score that may still be drawn."""
  size = logits.shape[1]
  likeliest, _ = jax.lax.top_k(logits, min(how.top_k or size, size))
  shares = jax.nn.softmax(likeliest)
  before = jnp.cumsum(shares, axis=1) - shares
  return jnp.min(
    jnp.where(before < how.top_p, likeliest, jnp.inf), axis=1, keepdims=True
  )


def ends_in_repetition(recent: Int[Array, 'b r'], times: int) -> Bool[Array, ' b']:
  """Whether the last tokens are one n-gram, `times` in a row; n is at most r / times.

  recent: the last tokens, the newest last; negative where there was none yet.
  """
  found = jnp.zeros(len(recent), bool)
  for n in range(1, recent.shape[1] // times + 1):
    last = recent[:, -n * times :]
    found |= (last[:, n:] == last[:, :-n]).all(axis=1) & (last[:, 0] >= 0)
  return found
