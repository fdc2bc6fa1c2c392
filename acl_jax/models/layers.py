# SPDX-License-Identifier: Apache-2.0
"""Layers that the towers share. Axis letters, here and in every einsum of the project:

b batch, t query time, s key time, d model width, n query heads, k key/value heads,
g query heads per key/value head, h head width, f feed-forward width, v vocabulary,
m mel bins, l layers, a audio clips.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.matrices import contract

LAYER_NORM_EPS = 1e-5  # PyTorch's default, which both encoders use
# What the backward pass may keep of a layer; the rest is recomputed.
REMAT = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Constant(nnx.Variable):
  """An array of a model that is never trained."""


def param(
  rngs: nnx.Rngs,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
  scale: float = 0.02,
  inputs: int | None = None,
) -> nnx.Param:
  """Draw a normal parameter of standard deviation `scale`; sharding uses `axes`.

  inputs: of a matrix that LoRA may wrap, the number of leading axes that a product
    contracts, or 1 for a table of rows; it is used through `matrices` only.
  """
  value = rngs.params.normal(shape) * scale
  if inputs is None:
    return nnx.Param(value, axes=axes)
  return nnx.Param(value, axes=axes, inputs=inputs)


def ones(size: int, axis: str = 'embed') -> nnx.Param:
  """Create the scale of a norm."""
  return nnx.Param(jnp.ones(size), axes=(axis,))


def zeros(size: int, axis: str = 'embed') -> nnx.Param:
  """Create a bias."""
  return nnx.Param(jnp.zeros(size), axes=(axis,))


class Norm(nnx.Module):
  """Layer norm with scale and bias."""

  def __init__(self, size: int):
    self.weight = ones(size)
    self.bias = zeros(size)

  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    return layer_norm(x, self.weight[...], self.bias[...], LAYER_NORM_EPS)


class Linear(nnx.Module):
  """A dense layer, by default with a bias; `axes` names the input and output axes."""

  def __init__(self, shape, axes, bias=True, scale=0.02, *, rngs: nnx.Rngs):
    self.weight = param(rngs, shape, axes, scale, inputs=1)
    self.bias = zeros(shape[1], axes[1]) if bias else None

  def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
    y = contract(x, self.weight)
    if self.bias is None:
      return y
    return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


def unroll_layers(model: nnx.Module) -> None:
  """Unroll the loops over layers in `model` wherever a module has the option `unroll`.

  Slower to compile; XLA's count of operations then includes every layer.
  """
  modules: Any = nnx.iter_modules(model)
  for _, module in modules:
    if hasattr(module, 'unroll'):
      module.unroll = True


def dropout(
  x: Float[Array, '...'], rate: float, key: Array | None
) -> Float[Array, '...']:
  """Dropout; the identity if `key` is None."""
  if key is None or rate == 0:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), 0)


def rms_norm(
  x: Float[Array, '*b d'], scale: Float[Array, ' d'], eps: float
) -> Float[Array, '*b d']:
  """Scale every vector to unit root mean square, then by `scale`."""
  y = x.astype(jnp.float32)  # float32: squares overflow or underflow in half precision
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  return (y * jnp.broadcast_to(scale, y.shape)).astype(x.dtype)


def layer_norm(
  x: Float[Array, '*b d'],
  scale: Float[Array, ' d'],
  bias: Float[Array, ' d'],
  eps: float,
) -> Float[Array, '*b d']:
  """Standardise every vector, then apply `scale` and `bias`."""
  y = x.astype(jnp.float32)  # float32: differences of nearly equal numbers
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  y = y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(bias, y.shape)
  return y.astype(x.dtype)


def attention(
  query: Float[Array, 'b t n h'],
  key: Float[Array, 'b k s h'],
  value: Float[Array, 'b k s h'],
  mask: Bool[Array, 'b t s'],
) -> Float[Array, 'b t n h']:
  """Scaled dot-product attention; n/k query heads share each key/value head.

  The output is arbitrary but finite, never NaN, for a query whose mask is all False.
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
  frames: Float[Array, 'b t d'], frame_index: Int[Array, 'b k u']
) -> tuple[Float[Array, 'a u d'], Bool[Array, 'a u']]:
  """Unpack rows into utterances; returns their frames and frame mask. a = b k.

  frame_index: position in its row of every frame of an utterance; -1 for padding.
  """
  b, k, u = frame_index.shape
  index = jnp.maximum(frame_index, 0).reshape(b, k * u, 1)
  unpacked = jnp.take_along_axis(frames, index, axis=1)
  return unpacked.reshape(b * k, u, -1), frame_index.reshape(b * k, u) >= 0


def segment_positions(segment_ids: Int[Array, 'b t']) -> Int[Array, 'b t']:
  """Return each position's distance from the start of its segment."""
  position = jnp.arange(segment_ids.shape[1])[None]
  before = jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
  start = jnp.where(segment_ids != before, position, 0)
  return position - jax.lax.cummax(start, axis=1)


def segment_mask(
  segment_ids: Int[Array, 'b t'], context: tuple[int, int] | None = None
) -> Bool[Array, 'b t t']:
  """Attention mask: positions of the same segment, at most `context` before and after.

  Segment 0 is padding, which nothing attends to.
  """
  mask = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, None]
  if context is None:
    return mask
  position = jnp.arange(segment_ids.shape[1])
  offset = position[None, :] - position[:, None]
  in_context = (-context[0] <= offset) & (offset <= context[1])
  return mask & in_context[None]
