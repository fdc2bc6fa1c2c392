# SPDX-License-Identifier: Apache-2.0
"""What the towers share. The letters, here and in every einsum of the project:

b batch, t query time, s key time, d model width, n query heads, k key/value heads,
g query heads per key/value head, h head width, f feed-forward width, v vocabulary,
m mel bins, l layers, a audio clips.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int8

LAYER_NORM_EPS = 1e-5  # PyTorch's default, which both encoders use
# What the backward pass may keep of a layer instead of computing it again.
REMAT = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Constant(nnx.Variable):
  """An array that belongs to a model and is never trained."""


def param(
  rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], scale: float = 0.02
) -> nnx.Param:
  """A normal parameter of standard deviation `scale`, its axes named for sharding."""
  return nnx.Param(rngs.params.normal(shape) * scale, axes=axes)


def ones(size: int, axis: str = 'embed') -> nnx.Param:
  """The scale of a norm."""
  return nnx.Param(jnp.ones(size), axes=(axis,))


def zeros(size: int, axis: str = 'embed') -> nnx.Param:
  """A bias."""
  return nnx.Param(jnp.zeros(size), axes=(axis,))


class QuantisedMatrix(nnx.Module):
  """A matrix in 8 bits; what is read of it has the dtype it was made from.

  Symmetric: value times scale, one scale for each index of the axes not `summed`.
  """

  def __init__(self, param: nnx.Variable, summed: tuple[int, ...]):
    axes = param.get_metadata()['axes']
    value, scale = quantise_int8(param[...], summed)
    self.value = nnx.Variable(value, axes=axes)
    ones = [i % len(axes) for i in summed]
    axes = tuple(None if i in ones else axis for i, axis in enumerate(axes))
    self.scale = nnx.Variable(scale, axes=axes)

  def __getitem__(self, index) -> Float[Array, '...']:
    scale = self.scale[index]
    return self.value[index].astype(scale.dtype) * scale


@functools.partial(jax.jit, static_argnames='summed')  # nothing as wide as it computes
def quantise_int8(
  weight: Float[Array, '...'], summed: tuple[int, ...]
) -> tuple[Int8[Array, '...'], Float[Array, '...']]:
  """Numbers in 8 bits, and the scale of all that differ in the axes `summed` only."""
  wide = weight.astype(jnp.float32)
  largest = jnp.max(jnp.abs(wide), summed, keepdims=True)
  scale = jnp.where(largest > 0, largest / 127, 1)
  return jnp.round(wide / scale).astype(jnp.int8), scale.astype(weight.dtype)


class Norm(nnx.Module):
  """Layer norm with scale and bias."""

  def __init__(self, size: int):
    self.weight = ones(size)
    self.bias = zeros(size)

  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    return layer_norm(x, self.weight[...], self.bias[...], LAYER_NORM_EPS)


class Linear(nnx.Module):
  """A dense map, with a bias unless told otherwise; `axes` names input and output."""

  def __init__(self, shape, axes, bias=True, scale=0.02, *, rngs: nnx.Rngs):
    self.weight = param(rngs, shape, axes, scale)
    self.bias = zeros(shape[1], axes[1]) if bias else None

  def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
    y = x @ self.weight[...].astype(x.dtype)
    if self.bias is None:
      return y
    return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


def dropout(
  x: Float[Array, '...'], rate: float, key: Array | None
) -> Float[Array, '...']:
  """Dropout, where there is a key."""
  if key is None or rate == 0:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), 0)


def project(
  x: Float[Array, 'b t d'], w: nnx.Param | QuantisedMatrix
) -> Float[Array, 'b t n h']:
  """A linear map from the model width to heads, in the dtype of `x`."""
  return jnp.einsum('btd,dnh->btnh', x, w[...].astype(x.dtype))


def rms_norm(
  x: Float[Array, '*b d'], scale: Float[Array, ' d'], eps: float
) -> Float[Array, '*b d']:
  """Scales every vector to unit root mean square, then by `scale`."""
  y = x.astype(jnp.float32)  # float32: squares overflow or vanish in less
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return (y * jnp.broadcast_to(scale, y.shape)).astype(x.dtype)


def layer_norm(
  x: Float[Array, '*b d'],
  scale: Float[Array, ' d'],
  bias: Float[Array, ' d'],
  eps: float,
) -> Float[Array, '*b d']:
  """Standardises every vector, then applies `scale` and `bias`."""
  y = x.astype(jnp.float32)  # float32: differences of close numbers
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  y = y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(bias, y.shape)
  return y.astype(x.dtype)


def rope(
  x: Float[Array, 'b t n h'], positions: Int[Array, 'b t'], theta: float
) -> Float[Array, 'b t n h']:
  """Rotary position embedding; a pair is (i, i + h/2), as in Hugging Face's Llama."""
  half = x.shape[-1] // 2
  # Rounded as PyTorch rounds: a last bit of difference grows with the position.
  frequency = 1 / (theta ** (np.arange(half) / half)).astype(np.float32)
  # float32: an angle of thousands of radians has no fraction left in bfloat16
  angle = positions.astype(jnp.float32)[:, :, None, None] * frequency[None, None, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  y = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(y, axis=-1).astype(x.dtype)


def attention(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  mask: Bool[Array, 'b t s'],
) -> Float[Array, 'b t n h']:
  """Scaled dot-product attention; n/k query heads share each key/value head.

  A query whose mask is all False gets an arbitrary finite answer, never NaN.
  """
  b, t, n, h = query.shape
  k = key.shape[1]
  query = query.reshape(b, t, k, n // k, h).transpose(0, 2, 3, 1, 4)
  # float32: scores and softmax
  scores = jnp.einsum(
    'bkgth,bksh->bkgts', query * h**-0.5, key, preferred_element_type=jnp.float32
  )
  scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  y = jnp.einsum('bkgts,bksh->bkgth', weights, value)
  return y.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def unpack_segments(
  frames: Float[Array, 'b t d'], place: Int[Array, 'b k u']
) -> tuple[Float[Array, 'a u d'], Bool[Array, 'a u']]:
  """Recordings that share rows, each on its own, and what of them is signal; a = b k.

  place: where in its row each one's frames are; -1 is nowhere.
  """
  b, k, u = place.shape
  index = jnp.maximum(place, 0).reshape(b, k * u, 1)
  alone = jnp.take_along_axis(frames, index, axis=1)
  return alone.reshape(b * k, u, -1), place.reshape(b * k, u) >= 0


def segment_mask(
  segment_ids: Int[Array, 'b t'], context: tuple[int, int] | None = None
) -> Bool[Array, 'b t t']:
  """Which inputs one sees: its own segment's, and only so far before and after it."""
  mask = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, None]
  if context is None:
    return mask
  place = jnp.arange(segment_ids.shape[1])
  ahead = place[None, :] - place[:, None]
  near = (-context[0] <= ahead) & (ahead <= context[1])
  return mask & near[None]
