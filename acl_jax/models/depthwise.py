# SPDX-License-Identifier: Apache-2.0
"""The convolution module of the Conformer; packed utterances do not mix."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from acl_jax.models.batch_norm import BatchNorm, Moments
from acl_jax.models.layers import Linear, param, zeros


class Convolution(nnx.Module):
  """Gated linear unit, depthwise convolution over time, batch norm, SiLU, dense."""

  def __init__(self, size: int, kernel_size: int, bias: bool, *, rngs: nnx.Rngs):
    d, scale, axes = size, size**-0.5, ('embed', 'mlp')
    self.pointwise_conv1 = Linear((d, 2 * d), axes, bias, scale, rngs=rngs)
    self.depthwise_conv = param(
      rngs, (kernel_size, d), ('conv', 'embed'), kernel_size**-0.5
    )
    self.depthwise_bias = zeros(d) if bias else None
    self.norm = BatchNorm(d)
    self.pointwise_conv2 = Linear((d, d), axes[::-1], bias, scale, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'b t d'], segment_ids: Int[Array, 'b t'], train_norm: bool
  ) -> tuple[Float[Array, 'b t d'], Moments]:
    frame_mask = segment_ids > 0
    x, gate = jnp.split(self.pointwise_conv1(x), 2, axis=-1)
    # Padding is zeroed before the convolution mixes time.
    y = jnp.where(frame_mask[..., None], x * jax.nn.sigmoid(gate), 0)
    y, moments = self.norm(self._convolve(y, segment_ids), frame_mask, train_norm)
    return self.pointwise_conv2(jax.nn.silu(y)), moments

  def _convolve(self, x, segment_ids):
    y = depthwise(x, self.depthwise_conv[...].astype(x.dtype), segment_ids)
    if self.depthwise_bias is None:
      return y
    return y + jnp.broadcast_to(self.depthwise_bias[...].astype(x.dtype), y.shape)


@jax.custom_vjp
def depthwise(
  x: Float[Array, 'b t d'], kernel: Float[Array, 'w d'], segment_ids: Int[Array, 'b t']
) -> Float[Array, 'b t d']:
  """Depthwise convolution over time within each utterance of a row.

  The gradient is explicit: from JAX's own, XLA recomputes the incoming gradient for
  every tap.
  """
  taps = _taps(x, segment_ids, len(kernel))
  scaled = (tap * weight[None, None] for tap, weight in zip(taps, kernel, strict=True))
  return functools.reduce(jnp.add, scaled)


def _forward(x, kernel, segment_ids):
  return depthwise(x, kernel, segment_ids), (x, kernel, segment_ids)


def _backward(saved, gradient):
  x, kernel, segment_ids = saved
  taps = _taps(x, segment_ids, len(kernel))
  by_kernel = jnp.stack([jnp.sum(tap * gradient, axis=(0, 1)) for tap in taps])
  return depthwise(gradient, kernel[::-1], segment_ids), by_kernel, None


depthwise.defvjp(_forward, _backward)


def _taps(
  x: Float[Array, 'b t d'], segment_ids: Int[Array, 'b t'], width: int
) -> list[Float[Array, 'b t d']]:
  """Shift `x` in time for each tap; zero where it is of another utterance."""
  t, half = x.shape[1], width // 2
  padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
  ids = jnp.pad(segment_ids, ((0, 0), (half, half)))
  return [
    jnp.where((ids[:, i : i + t] == segment_ids)[..., None], padded[:, i : i + t], 0)
    for i in range(width)
  ]
