# SPDX-License-Identifier: Apache-2.0
"""Self-attention with relative positions: it depends on distances between frames.

Therefore an utterance is encoded identically alone and packed after others.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import Linear, dropout, param
from acl_jax.models.matrices import contract

THETA = 10_000.0  # of the sinusoids, as in Vaswani et al. 2017


class RelativeAttention(nnx.Module):
  """Self-attention whose scores also depend on the distance between frames.

  Dai et al. 2019, section 3.3: bias_u is their u, bias_v their v, relative_k_proj W_kR.
  """

  def __init__(
    self, hidden_size: int, num_heads: int, bias: bool, dropout: float, *, rngs
  ):
    d, n = hidden_size, num_heads
    axes, scale = ('embed', 'heads'), d**-0.5
    self.dropout = dropout
    self.q_proj = Linear((d, d), axes, bias, scale=scale, rngs=rngs)
    self.k_proj = Linear((d, d), axes, bias, scale=scale, rngs=rngs)
    self.v_proj = Linear((d, d), axes, bias, scale=scale, rngs=rngs)
    self.o_proj = Linear((d, d), axes[::-1], bias, scale=scale, rngs=rngs)
    self.relative_k_proj = param(rngs, (d, d), axes, scale, inputs=1)
    self.bias_u = param(rngs, (n, d // n), ('heads', 'head_dim'))
    self.bias_v = param(rngs, (n, d // n), ('heads', 'head_dim'))

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    distances: Float[Array, 'p d'],
    mask: Bool[Array, 'b t t'],
    key: Array | None,
  ) -> Float[Array, 'b t d']:
    n, h = self.bias_u.shape
    projections = (self.q_proj, self.k_proj, self.v_proj)
    query, keys, values = (f(x).reshape(*x.shape[:2], n, h) for f in projections)
    relative = contract(distances, self.relative_k_proj).reshape(-1, n, h)
    u, v = (w[...].astype(x.dtype)[None, None] for w in (self.bias_u, self.bias_v))
    # Heads first, so that no product below has to transpose its result.
    heads_first = (2, 0, 1, 3)
    content_query, distance_query = (
      ((query + bias) * h**-0.5).transpose(heads_first) for bias in (u, v)
    )
    scores = jnp.einsum('nbth,nbhs->nbts', content_query, keys.transpose(2, 0, 3, 1))
    scores += distance_scores(distance_query, relative.transpose(1, 0, 2))
    scores = scores.astype(jnp.float32)
    scores = jnp.where(mask[None], scores, jnp.finfo(jnp.float32).min)
    # Dropout masks are drawn rows first, so that they do not depend on later rows.
    weights = jax.nn.softmax(scores).swapaxes(0, 1)
    weights = dropout(weights, self.dropout, key).swapaxes(0, 1).astype(x.dtype)
    y = jnp.einsum('nbts,nbsh->nbth', weights, values.transpose(heads_first))
    return self.o_proj(y.transpose(1, 2, 0, 3).reshape(x.shape))


def sinusoids(length: int, size: int) -> Float[Array, 'p d']:
  """Return an embedding of each distance from length - 1 to -length; p = 2 length."""
  distance = jnp.arange(length - 1, -length - 1, -1, dtype=jnp.float32)
  frequency = THETA ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
  angle = distance[:, None] * frequency[None]
  return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, size)


@jax.custom_vjp
def distance_scores(
  query: Float[Array, 'n b t h'], relative: Float[Array, 'n p h']
) -> Float[Array, 'n b t s']:
  """Score every pair of frames by its distance; `relative` is ordered as `sinusoids`.

  The gradient is explicit: JAX's own copies the scores of all distances four times.
  """
  return relative_shift(jnp.einsum('nbth,nph->nbtp', query, relative))


def _backward(saved, scores: Float[Array, 'n b t s']):
  query, relative = saved
  by_distance = relative_shift_transpose(scores)
  relative_gradient = jnp.einsum('nbth,nbtp->nhp', query, by_distance).swapaxes(1, 2)
  return jnp.einsum('nbtp,nph->nbth', by_distance, relative), relative_gradient


distance_scores.defvjp(lambda *saved: (distance_scores(*saved), saved), _backward)


def relative_shift(by_distance: Float[Array, 'n b t p']) -> Float[Array, 'n b t s']:
  """Select the score of every pair's distance among the scores of all distances.

  Row t needs the columns from length - 1 - t on. Without the first length - 1 numbers,
  and reshaped to rows that are one shorter, every row starts there (after Dai et al.
  2019, appendix B).
  """
  n, b, t, p = by_distance.shape
  flat = by_distance.reshape(n, b, t * p)[..., t - 1 : t * p - 1]
  return flat.reshape(n, b, t, p - 1)[..., :t]


def relative_shift_transpose(
  scores: Float[Array, 'n b t s'],
) -> Float[Array, 'n b t p']:
  """Transpose `relative_shift`; zeros for distances that no pair of a row has."""
  n, b, t = scores.shape[:3]
  # In rows that are one longer, row t starts t numbers earlier.
  padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 1), (t, 0)))
  flat = padded.reshape(n, b, -1)[..., : t * (2 * t + 1)]
  return flat.reshape(n, b, t, 2 * t + 1)[..., 1:]
