# SPDX-License-Identifier: Apache-2.0
"""Self-attention that knows how far apart frames are, not where they stand.

So an utterance hears itself alike alone and packed behind others.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import Linear, drop, param

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
    # Heads first, so that not one of the products that follow has to move its result.
    query, keys, values = (
      f(x).reshape(*x.shape[:2], n, h).transpose(2, 0, 1, 3) for f in projections
    )
    relative = (distances @ self.relative_k_proj[...].astype(x.dtype)).reshape(-1, n, h)
    u, v = (w[...].astype(x.dtype)[:, None, None] for w in (self.bias_u, self.bias_v))
    by_content = jnp.einsum('nbth,nbsh->nbts', query + u, keys)
    by_distance = shift(jnp.einsum('nbth,pnh->nbtp', query + v, relative))
    scores = (by_content + by_distance).astype(jnp.float32) * h**-0.5
    scores = jnp.where(mask[None], scores, jnp.finfo(jnp.float32).min)
    # What is dropped is drawn rows first, so that further rows change nothing of it.
    weights = jax.nn.softmax(scores).swapaxes(0, 1)
    weights = drop(weights, self.dropout, key).swapaxes(0, 1).astype(x.dtype)
    y = jnp.einsum('nbts,nbsh->btnh', weights, values)
    return self.o_proj(y.reshape(x.shape))


def sinusoids(length: int, size: int) -> Float[Array, 'p d']:
  """What stands for each distance from length - 1 to -length; p = 2 length."""
  distance = jnp.arange(length - 1, -length - 1, -1, dtype=jnp.float32)
  frequency = THETA ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
  angle = distance[:, None] * frequency[None]
  return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, size)


@jax.custom_vjp
def shift(by_distance: Float[Array, 'n b t p']) -> Float[Array, 'n b t s']:
  """Scores by distance, as `sinusoids` orders it -> scores of every pair of frames.

  Row t wants columns from length - 1 - t on: behind the first length - 1 numbers, the
  same ones in rows one shorter begin there (after Dai et al. 2019, appendix B). Its
  gradient is written down, as that of a slice is slow on a CPU.
  """
  n, b, t, p = by_distance.shape
  flat = by_distance.reshape(n, b, t * p)[..., t - 1 : t * p - 1]
  return flat.reshape(n, b, t, p - 1)[..., :t]


def _shift_back(_: None, scores: Float[Array, 'n b t s']):
  n, b, t = scores.shape[:3]
  flat = jnp.pad(scores, ((0, 0),) * 3 + ((t - 1, 0),)).reshape(n, b, t * (2 * t - 1))
  flat = jnp.concatenate([flat, jnp.zeros((n, b, t), flat.dtype)], axis=-1)
  return (flat.reshape(n, b, t, 2 * t),)


shift.defvjp(lambda by_distance: (shift(by_distance), None), _shift_back)
