# SPDX-License-Identifier: Apache-2.0
"""Sampling of the next token."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings; temperature 0 is greedy.

  top_k: sample from the k likeliest tokens only; 0 for all. top_p: of these, keep the
  smallest set of likeliest tokens whose probabilities sum to at least p (nucleus
  sampling, Holtzman et al. 2020).
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    if not 0 <= self.temperature < float('inf'):
      raise ValueError(f'temperature is {self.temperature}; it must be at least 0')
    if self.top_k < 0:
      raise ValueError(f'top_k is {self.top_k}; it must be at least 0')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'top_p is {self.top_p}; it must be above 0 and at most 1')


def sample(
  logits: Float[Array, 'b v'], keys: Key[Array, ' b'], sampling: Sampling
) -> Int[Array, ' b']:
  """Return the next token of each row, sampled with the row's own key."""
  if sampling.temperature == 0:
    return jnp.argmax(logits, axis=1).astype(jnp.int32)
  logits = logits / sampling.temperature
  if sampling.top_k or sampling.top_p < 1:
    min_kept = _min_kept_logit(logits, sampling.top_k, jnp.asarray(sampling.top_p))
    logits = jnp.where(logits >= min_kept, logits, -jnp.inf)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def sample_rows(
  logits: Float[Array, 'b v'],
  keys: Key[Array, ' b'],
  temperature: Float[Array, ' b'],
  top_p: Float[Array, ' b'],
) -> Int[Array, ' b']:
  """As `sample`, with settings of each row's own that are not compiled in."""

  def draw() -> Int[Array, ' b']:
    scaled = logits / jnp.where(temperature > 0, temperature, 1)[:, None]
    min_kept = jax.lax.cond(
      jnp.any(top_p < 1),
      lambda: _min_kept_logit(scaled, 0, top_p[:, None]),
      lambda: jnp.full((len(top_p), 1), -jnp.inf),
    )
    kept = jnp.where(scaled >= min_kept, scaled, -jnp.inf)
    drawn = jax.vmap(jax.random.categorical)(keys, kept)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)

  greedy = jnp.argmax(logits, axis=1).astype(jnp.int32)
  return jax.lax.cond(jnp.any(temperature > 0), draw, lambda: greedy)


def _min_kept_logit(
  logits: Float[Array, 'b v'], top_k: int, top_p: Float[Array, '*b']
) -> Float[Array, 'b 1']:
  """Return the lowest logit that top-k and top-p leave to sample from."""
  vocab_size = logits.shape[1]
  top_logits, _ = jax.lax.top_k(logits, min(top_k or vocab_size, vocab_size))
  probs = jax.nn.softmax(top_logits)
  preceding = jnp.cumsum(probs, axis=1) - probs  # probability of all likelier tokens
  return jnp.min(
    jnp.where(preceding < top_p, top_logits, jnp.inf), axis=1, keepdims=True
  )
