# SPDX-License-Identifier: Apache-2.0
"""The paper's encoder: a Conformer (Gulati et al. 2020) behind subsampling by eight.

Its blocks are those of FastConformer (Rekesh et al. 2023), and its parameters are named
as Transformers' `ParakeetEncoder` names them. Utterances may be packed: frames with
different segment ids know nothing of each other, and 0 is padding.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.batch_norm import BatchNorm, Moments
from acl_jax.models.depthwise import depthwise
from acl_jax.models.layers import (
  REMAT,
  Linear,
  Norm,
  dropout,
  param,
  segment_mask,
  zeros,
)
from acl_jax.models.relative_attention import RelativeAttention, sinusoids
from acl_jax.models.subsampling import Subsampling
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
  """Sizes, named as Transformers' `ParakeetEncoderConfig` names them.

  attention_context: how many frames before and after a frame it may see; None is all.
  features: whose log-mel spectrogram it was trained with.
  """

  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  conv_kernel_size: int
  num_mel_bins: int = 80
  subsampling_factor: int = 8
  subsampling_conv_channels: int = 256
  max_position_embeddings: int = 5_000
  attention_bias: bool = True
  convolution_bias: bool = True
  scale_input: bool = True
  dropout: float = 0.1
  attention_context: tuple[int, int] | None = None
  features: str = 'parakeet'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (type(value) is not int or value < 1):
        raise ValueError(f'{field.name} = {value!r} is not a positive integer')
    for name, divisor in (
      ('hidden_size', 2),
      ('hidden_size', self.num_attention_heads),
      ('num_mel_bins', self.subsampling_factor),
    ):
      if (value := getattr(self, name)) % divisor:
        raise ValueError(f'{name} = {value} is not a multiple of {divisor}')
    if self.conv_kernel_size % 2 == 0:
      raise ValueError(f'conv_kernel_size = {self.conv_kernel_size} is not odd')
    if self.subsampling_factor.bit_count() != 1 or self.subsampling_factor == 1:
      raise ValueError(
        f'subsampling_factor = {self.subsampling_factor} is no power of two above one'
      )

  @property
  def output_size(self) -> int:
    """The width of an encoder frame."""
    return self.hidden_size

  @property
  def subsampling(self) -> int:
    """Log-mel frames in an encoder frame."""
    return self.subsampling_factor

  @property
  def max_frames(self) -> int:
    """Log-mel frames that it hears at most."""
    return self.max_position_embeddings * self.subsampling_factor


class Encoded(NamedTuple):
  """Frames, which utterance each belongs to, and frames and moments of every layer."""

  frames: Float[Array, 'b u d']
  segment_ids: Int[Array, 'b u']
  moments: Moments
  of_layer: Float[Array, 'l b u d']


class FeedForward(nnx.Module):
  """Two dense maps with a SiLU between."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    d, f, bias = config.hidden_size, config.intermediate_size, config.attention_bias
    self.dropout = config.dropout
    self.linear1 = Linear((d, f), ('embed', 'mlp'), bias, scale=d**-0.5, rngs=rngs)
    self.linear2 = Linear((f, d), ('mlp', 'embed'), bias, scale=f**-0.5, rngs=rngs)

  def __call__(self, x: Float[Array, 'b t d'], key: Array | None):
    return self.linear2(dropout(jax.nn.silu(self.linear1(x)), self.dropout, key))


class Convolution(nnx.Module):
  """A gated map, a depthwise convolution over time, batch norm, SiLU, a map."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    d, width = config.hidden_size, config.conv_kernel_size
    bias = config.convolution_bias
    how = dict(scale=d**-0.5, rngs=rngs)
    self.pointwise_conv1 = Linear((d, 2 * d), ('embed', 'mlp'), bias, **how)
    self.depthwise_conv = param(rngs, (width, d), ('conv', 'embed'), width**-0.5)
    self.depthwise_bias = zeros(d) if bias else None
    self.norm = BatchNorm(d)
    self.pointwise_conv2 = Linear((d, d), ('mlp', 'embed'), bias, **how)

  def __call__(
    self, x: Float[Array, 'b t d'], segment_ids: Int[Array, 'b t'], train_norm: bool
  ) -> tuple[Float[Array, 'b t d'], Moments]:
    valid = segment_ids > 0
    x, gate = jnp.split(self.pointwise_conv1(x), 2, axis=-1)
    # What is not signal is zeroed before the convolution mixes time.
    y = self._mix(jnp.where(valid[..., None], x * jax.nn.sigmoid(gate), 0), segment_ids)
    y, moments = self.norm(y, valid, train_norm)
    return self.pointwise_conv2(jax.nn.silu(y)), moments

  def _mix(self, x, segment_ids):
    y = depthwise(x, self.depthwise_conv[...].astype(x.dtype), segment_ids)
    if self.depthwise_bias is None:
      return y
    return y + jnp.broadcast_to(self.depthwise_bias[...].astype(x.dtype), y.shape)


class Block(nnx.Module):
  """Half a feed-forward, attention, convolution, the other half; each normed before."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    d = config.hidden_size
    self.norm_feed_forward1 = Norm(d)
    self.feed_forward1 = FeedForward(config, rngs=rngs)
    self.norm_self_att = Norm(d)
    self.self_attn = RelativeAttention(
      *(d, config.num_attention_heads, config.attention_bias, config.dropout),
      rngs=rngs,
    )
    self.norm_conv = Norm(d)
    self.conv = Convolution(config, rngs=rngs)
    self.norm_feed_forward2 = Norm(d)
    self.feed_forward2 = FeedForward(config, rngs=rngs)
    self.norm_out = Norm(d)

  def __call__(self, x, distances, segment_ids, mask, key, train_norm):
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x), keys[0])
    x = x + self.self_attn(self.norm_self_att(x), distances, mask, keys[1])
    y, moments = self.conv(self.norm_conv(x), segment_ids, train_norm)
    x = x + y
    x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x), keys[2])
    return self.norm_out(x), moments


class Conformer(nnx.Module):
  """log-mel frames (10 ms) -> hidden frames (80 ms)."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.subsampling = Subsampling(
      config.num_mel_bins,
      config.subsampling_conv_channels,
      config.subsampling_factor,
      config.hidden_size,
      rngs=rngs,
    )
    keys = jax.random.split(rngs.params(), config.num_hidden_layers)
    self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)

  def __call__(
    self, log_mel: Float[Array, 'b t m'], valid: Bool[Array, 'b t']
  ) -> tuple[Float[Array, 'b u d'], Bool[Array, 'b u']]:
    """Hidden frames and which of them are signal, one utterance a row."""
    encoded = self.encode(log_mel, valid.astype(jnp.int32))
    return encoded.frames, encoded.segment_ids > 0

  def encode(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    key: Array | None = None,
    train_norm: bool = False,
    remat: str | None = None,
  ) -> Encoded:
    """Hidden frames of packed utterances; each begins at a multiple of the subsampling.

    key: for dropout, which happens if there is one. train_norm: see `BatchNorm`.
    remat: what to keep for the backward pass, a key of `REMAT`; None keeps everything.
    """
    c = self.config
    if log_mel.shape[1] > c.max_frames:
      raise ValueError(
        f'audio has {log_mel.shape[1]} frames; the encoder hears {c.max_frames} at most'
      )
    x, segment_ids = self.subsampling(log_mel, segment_ids)
    keys = None
    if key is not None:
      first, rest = jax.random.split(key)
      keys = jax.random.split(rest, c.num_hidden_layers)
      x = dropout(x, c.dropout, first)
    x = x * (c.hidden_size**0.5 if c.scale_input else 1.0)
    distances = sinusoids(x.shape[1], c.hidden_size).astype(x.dtype)
    mask = segment_mask(segment_ids, c.attention_context)

    def layer(x, inputs):
      block, key = inputs
      x, moments = block(x, distances, segment_ids, mask, key, train_norm)
      x = constrain(x, *HIDDEN_AXES)
      return x, (moments, x)  # XLA drops what nobody reads

    if remat is not None:
      layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    x = constrain(x, *HIDDEN_AXES)
    x, (moments, of_layer) = jax.lax.scan(layer, x, (self.layers, keys))
    return Encoded(x, segment_ids, moments, of_layer)
