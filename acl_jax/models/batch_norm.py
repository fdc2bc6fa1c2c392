# SPDX-License-Identifier: Apache-2.0
"""Batch norm with explicit statistics: updated running averages are returned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import ones, zeros

EPS, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults


class RunningAverage(nnx.Variable):
  """A statistic of the data: not a parameter, and it gets no gradient."""


class Moments(NamedTuple):
  """Updated running mean and variance of every channel."""

  mean: Float[Array, '*l d']
  variance: Float[Array, '*l d']


class BatchNorm(nnx.Module):
  """Batch norm over the unmasked frames of a batch (Ioffe and Szegedy 2015).

  Under a mesh this is the global batch: sums are over whole arrays.
  """

  def __init__(self, size: int):
    self.weight, self.bias = ones(size), zeros(size)
    self.running_mean = RunningAverage(jnp.zeros(size))
    self.running_var = RunningAverage(jnp.ones(size))

  def __call__(
    self, x: Float[Array, 'b t d'], frame_mask: Bool[Array, 'b t'], train_norm: bool
  ) -> tuple[Float[Array, 'b t d'], Moments]:
    """Standardise by this batch if `train_norm`, otherwise by the running averages."""
    running = Moments(self.running_mean[...], self.running_var[...])
    y = x.astype(jnp.float32)  # float32: differences of nearly equal numbers
    mean, variance = running
    if train_norm:
      mean, variance, count = _moments(y, frame_mask[..., None])
      unbiased = variance * count / jnp.maximum(count - 1, 1)
      batch = jax.lax.stop_gradient(Moments(mean, unbiased))
      running = jax.tree.map(
        lambda old, new: old + MOMENTUM * (new - old), running, batch
      )
    scale = self.weight[...] * jax.lax.rsqrt(variance + EPS)
    y = (y - mean[None, None]) * scale[None, None] + self.bias[...][None, None]
    return y.astype(x.dtype), running


def _moments(x: Float[Array, 'b t d'], frame_mask: Bool[Array, 'b t 1']):
  """Mean and biased variance over the unmasked frames, and the number of these."""
  count = jnp.maximum(jnp.sum(frame_mask), 1)
  mean = jnp.sum(jnp.where(frame_mask, x, 0), axis=(0, 1)) / count
  square = jnp.where(frame_mask, (x - mean[None, None]) ** 2, 0)
  return mean, jnp.sum(square, axis=(0, 1)) / count, count
