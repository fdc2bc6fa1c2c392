# SPDX-License-Identifier: Apache-2.0
"""Batch norm whose statistics are explicit: what it learnt is returned, not kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import ones, zeros

EPS, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults


class RunningAverage(nnx.Variable):
  """A statistic of the data, no parameter: no gradient moves it."""


class Moments(NamedTuple):
  """The mean and variance of every channel that are the running averages by now."""

  mean: Float[Array, '*l d']
  variance: Float[Array, '*l d']


class BatchNorm(nnx.Module):
  """Standardises channels over the valid frames of a batch (Ioffe and Szegedy 2015).

  Under a mesh that is the global batch: the sums are those of whole arrays.
  """

  def __init__(self, size: int):
    self.weight, self.bias = ones(size), zeros(size)
    self.running_mean = RunningAverage(jnp.zeros(size))
    self.running_var = RunningAverage(jnp.ones(size))

  def __call__(
    self, x: Float[Array, 'b t d'], valid: Bool[Array, 'b t'], train_norm: bool
  ) -> tuple[Float[Array, 'b t d'], Moments]:
    """train_norm: standardise by this batch; else by the running averages."""
    running = Moments(self.running_mean[...], self.running_var[...])
    y = x.astype(jnp.float32)  # float32: differences of close numbers
    mean, variance = running
    if train_norm:
      mean, variance, count = _moments(y, valid[..., None])
      unbiased = variance * count / jnp.maximum(count - 1, 1)
      now = jax.lax.stop_gradient(Moments(mean, unbiased))
      running = jax.tree.map(
        lambda old, new: old + MOMENTUM * (new - old), running, now
      )
    scale = self.weight[...] * jax.lax.rsqrt(variance + EPS)
    y = (y - mean[None, None]) * scale[None, None] + self.bias[...][None, None]
    return y.astype(x.dtype), running


def _moments(x: Float[Array, 'b t d'], valid: Bool[Array, 'b t 1']):
  """Mean and (biased) variance over the valid frames, and how many those are."""
  count = jnp.maximum(jnp.sum(valid), 1)
  mean = jnp.sum(jnp.where(valid, x, 0), axis=(0, 1)) / count
  square = jnp.where(valid, (x - mean[None, None]) ** 2, 0)
  return mean, jnp.sum(square, axis=(0, 1)) / count, count
