# SPDX-License-Identifier: Apache-2.0
"""Convolutional blocks of the CTC adapter."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.adapters import EPS, project
from acl_jax.models.layers import dropout, ones, param, rms_norm
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


class ConvBlock(nnx.Module):
  """Depthwise convolution over time, then gated feed-forward; pre-norm and residual."""

  def __init__(self, size: int, kernel_size: int, dropout: float, *, rngs: nnx.Rngs):
    self.dropout = dropout
    self.conv_norm = ones(size)
    self.conv = param(rngs, (kernel_size, size), ('conv', 'embed'), 0.2)
    self.mlp_norm = ones(size)
    shape, axes, scale = (size, size), ('embed', 'mlp'), size**-0.5
    self.gate_proj = param(rngs, shape, axes, scale, inputs=1)
    self.up_proj = param(rngs, shape, axes, scale, inputs=1)
    self.down_proj = param(rngs, shape, axes[::-1], scale, inputs=1)

  def __call__(
    self, x: Float[Array, 'a s d'], frame_mask: Bool[Array, 'a s'], key: Array | None
  ) -> Float[Array, 'a s d']:
    width = self.conv.shape[0]
    # Padding is zeroed before the convolution mixes time.
    y = rms_norm(x, self.conv_norm[...], EPS) * frame_mask[..., None]
    y = jnp.pad(y, ((0, 0), (width // 2, (width - 1) // 2), (0, 0)))
    kernel = self.conv[...]
    x = x + sum(y[:, i : i + x.shape[1]] * kernel[i][None, None] for i in range(width))
    y = rms_norm(x, self.mlp_norm[...], EPS)
    y = jax.nn.silu(project(y, self.gate_proj)) * project(y, self.up_proj)
    return x + project(dropout(y, self.dropout, key), self.down_proj)


def run_blocks(
  blocks: ConvBlock,
  x: Float[Array, 'a s d'],
  frame_mask: Bool[Array, 'a s'],
  key: Array | None,
  unroll: bool,
) -> Float[Array, 'a s d']:
  """Run stacked blocks, one after another."""
  keys = None if key is None else jax.random.split(key, blocks.conv.shape[0])

  def run(x, inputs):
    block, key = inputs
    return constrain(block(x, frame_mask, key), *HIDDEN_AXES), None

  return jax.lax.scan(run, x, (blocks, keys), unroll=unroll)[0]
