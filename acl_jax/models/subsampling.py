# SPDX-License-Identifier: Apache-2.0
"""Convolutional subsampling of log-mel frames by a power of two, packed or not.

A 3 x 3 convolution of stride 2, then pairs of a depthwise convolution and a pointwise
map, as in FastConformer (Rekesh et al. 2023). Packed utterances do not mix.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from acl_jax.models.layers import Linear, param, zeros
from acl_jax.models.matrices import contract
from acl_jax.models.taps import segment_taps, three_taps

STRIDE = 2  # of every level, in time and in mel bins
KERNEL = 3


class Depthwise(nnx.Module):
  """Depthwise 3 x 3 convolution of stride 2, padded by one.

  A single input channel is convolved with every kernel.
  """

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    shape, axes = (KERNEL, KERNEL, channels), ('conv', 'conv', 'channels')
    self.weight = param(rngs, shape, axes, 1 / KERNEL)
    self.bias = zeros(channels, 'channels')

  def __call__(
    self, x: Float[Array, 'b t q i'], segment_ids: Int[Array, 'b t']
  ) -> Float[Array, 'b u p c']:
    weight = self.weight[...].astype(x.dtype)
    rows = segment_taps(x, segment_ids, STRIDE)
    taps = [tap for row in rows for tap in three_taps(row, axis=2, stride=STRIDE)]
    weights = jnp.reshape(weight, (KERNEL * KERNEL, -1))
    if x.shape[-1] == 1:  # a dense convolution: one matrix product
      y = jnp.concatenate(taps, axis=-1) @ weights
    else:
      y = functools.reduce(jnp.add, map(_scale, taps, weights))
    return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class Subsampling(nnx.Module):
  """Log-mel frames -> one hidden frame for every `factor`; parameters as Parakeet's."""

  def __init__(
    self, mels: int, channels: int, factor: int, hidden_size: int, *, rngs: nnx.Rngs
  ):
    self.levels = factor.bit_length() - 1
    self.conv = Depthwise(channels, rngs=rngs)
    axes, scale = ('channels', 'channels'), channels**-0.5
    for level in range(1, self.levels):
      setattr(self, f'depthwise_{level}', Depthwise(channels, rngs=rngs))
      pointwise = Linear((channels, channels), axes, scale=scale, rngs=rngs)
      setattr(self, f'pointwise_{level}', pointwise)
    shape, axes = (mels // factor, channels, hidden_size), ('mels', 'channels', 'embed')
    scale = (shape[0] * shape[1]) ** -0.5
    self.linear = param(rngs, shape, axes, scale, inputs=2)
    self.bias = zeros(hidden_size)

  def __call__(
    self, log_mel: Float[Array, 'b t m'], segment_ids: Int[Array, 'b t']
  ) -> tuple[Float[Array, 'b u d'], Int[Array, 'b u']]:
    """Return hidden frames and their segment ids; u = ceil(t / factor).

    segment_ids: 0 is padding. Every utterance starts at a multiple of the factor.
    """
    x = jnp.where(segment_ids[..., None] > 0, log_mel, 0)[..., None]
    x = jax.nn.relu(self.conv(x, segment_ids))
    segment_ids = segment_ids[:, ::STRIDE]
    for level in range(1, self.levels):
      x = getattr(self, f'depthwise_{level}')(x, segment_ids)
      segment_ids = segment_ids[:, ::STRIDE]
      x = jax.nn.relu(getattr(self, f'pointwise_{level}')(x))
    x = contract(x, self.linear, axes=2)
    return x + jnp.broadcast_to(self.bias[...].astype(x.dtype), x.shape), segment_ids


def _scale(
  x: Float[Array, 'b u p c'], weight: Float[Array, ' c']
) -> Float[Array, 'b u p c']:
  return x * weight[None, None, None]
