# SPDX-License-Identifier: Apache-2.0
"""Self-attention that knows how far apart frames are, not where they stand.

So an utterance hears itself alike alone and packed behind others.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import Linear, dropout, param

THETA = 10_000.0  # of the sinusoids, as of Vaswani et al. 2017


class RelativeAttention(nnx.Module):
  """Self-attention whose scores also depend on how far apart frames are.

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
    self.relative_k_proj = param(rngs, (d, d), axes, scale)
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
    relative = (distances @ self.relative_k_proj[...].astype(x.dtype)).reshape(-1, n, h)
    u, v = (w[...].astype(x.dtype)[None, None] for w in (self.bias_u, self.bias_v))
    # Heads first, so that not one of the products that follow has to move its result.
    heads_first = (2, 0, 1, 3)
    of_content, of_distance = (
      ((query + bias) * h**-0.5).transpose(heads_first) for bias in (u, v)
    )
    scores = jnp.einsum('nbth,nbhs->nbts', of_content, keys.transpose(2, 0, 3, 1))
    scores += distance_scores(of_distance, relative.transpose(1, 0, 2))
    scores = scores.astype(jnp.float32)
    scores = jnp.where(mask[None], scores, jnp.finfo(jnp.float32).min)
    # What is dropped is drawn rows first, so that further rows change nothing of it.
    weights = jax.nn.softmax(scores).swapaxes(0, 1)
    weights = dropout(weights, self.dropout, key).swapaxes(0, 1).astype(x.dtype)
    y = jnp.einsum('nbts,nbsh->nbth', weights, values.transpose(heads_first))
    return self.o_proj(y.transpose(1, 2, 0, 3).reshape(x.shape))


def sinusoids(length: int, size: int) -> Float[Array, 'p d']:
  """What stands for each distance from length - 1 to -length; p = 2 length."""
  distance = jnp.arange(length - 1, -length - 1, -1, dtype=jnp.float32)
  frequency = THETA ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
  angle = distance[:, None] * frequency[None]
  return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, size)


@jax.custom_vjp
def distance_scores(
  query: Float[Array, 'n b t h'], relative: Float[Array, 'n p h']
) -> Float[Array, 'n b t s']:
  """Scores of every pair of frames by their distance, as `sinusoids` orders it.

  Its gradient is written down: JAX's own moves the scores of all distances four times.
  """
  return relative_shift(jnp.einsum('nbth,nph->nbtp', query, relative))


def _backward(saved, scores: Float[Array, 'n b t s']):
  query, relative = saved
  of_all = relative_shift_transpose(scores)
  of_relative = jnp.einsum('nbth,nbtp->nhp', query, of_all).swapaxes(1, 2)
  return jnp.einsum('nbtp,nph->nbth', of_all, relative), of_relative


distance_scores.defvjp(lambda *saved: (distance_scores(*saved), saved), _backward)


def relative_shift(of_all: Float[Array, 'n b t p']) -> Float[Array, 'n b t s']:
  """Scores of all distances -> those of the distance that each pair of frames has.

  Row t wants columns from length - 1 - t on: behind the first length - 1 numbers, the
  same ones in rows one shorter begin there (after Dai et al. 2019, appendix B).
  """
  n, b, t, p = of_all.shape
  flat = of_all.reshape(n, b, t * p)[..., t - 1 : t * p - 1]
  return flat.reshape(n, b, t, p - 1)[..., :t]


def relative_shift_transpose(
  scores: Float[Array, 'n b t s'],
) -> Float[Array, 'n b t p']:
  """The reverse of `shift`, with zeros for the distances that no pair of a row has."""
  n, b, t = scores.shape[:3]
  # In rows one longer, row t begins t numbers earlier.
  padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 1), (t, 0)))
  flat = padded.reshape(n, b, -1)[..., : t * (2 * t + 1)]
  return flat.reshape(n, b, t, 2 * t + 1)[..., 1:]
