# SPDX-License-Identifier: Apache-2.0
"""The paper's encoder: a Conformer (Gulati et al. 2020) after subsampling by eight.

Its blocks are those of FastConformer (Rekesh et al. 2023); parameters are named as in
Transformers' `ParakeetEncoder`. Utterances may be packed: frames with different segment
ids do not affect each other, and 0 is padding.
"""

import dataclasses
from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from acl_jax.models.batch_norm import Moments
from acl_jax.models.depthwise import Convolution
from acl_jax.models.layers import (
  REMAT,
  Linear,
  Norm,
  dropout,
  segment_mask,
)
from acl_jax.models.relative_attention import RelativeAttention, sinusoids
from acl_jax.models.sizes import check_positive_integers
from acl_jax.models.subsampling import Subsampling
from acl_jax.models.tower import Tower
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
  """Sizes, named as Transformers' `ParakeetEncoderConfig` names them.

  attention_context: frames before and after that a frame attends to; None is all.
  features: the definition of log-mel spectrogram that it was trained with.
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
    fields = dataclasses.fields(self)
    check_positive_integers(self, [f.name for f in fields if f.type is int])
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
        f'subsampling_factor = {self.subsampling_factor} is not a power of two above 1'
      )

  @property
  def output_size(self) -> int:
    """The width of an encoder frame."""
    return self.hidden_size

  @property
  def subsampling(self) -> int:
    """Log-mel frames per encoder frame."""
    return self.subsampling_factor

  @property
  def trailing_silence(self) -> int:
    """Log-mel frames of silence that it expects after an utterance."""
    return 0

  @property
  def max_frames(self) -> int:
    """The limit on log-mel frames of an utterance."""
    return self.max_position_embeddings * self.subsampling_factor


class Encoded(NamedTuple):
  """Encoder frames, their segment ids, and moments and frames of every layer."""

  frames: Float[Array, 'b u d']
  segment_ids: Int[Array, 'b u']
  moments: Moments
  layer_frames: Float[Array, 'l b u d']


class FeedForward(nnx.Module):
  """Two dense layers with a SiLU in between."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    d, f, bias = config.hidden_size, config.intermediate_size, config.attention_bias
    self.dropout = config.dropout
    self.linear1 = Linear((d, f), ('embed', 'mlp'), bias, scale=d**-0.5, rngs=rngs)
    self.linear2 = Linear((f, d), ('mlp', 'embed'), bias, scale=f**-0.5, rngs=rngs)

  def __call__(self, x: Float[Array, 'b t d'], key: Array | None):
    return self.linear2(dropout(jax.nn.silu(self.linear1(x)), self.dropout, key))


class Block(nnx.Module):
  """Half feed-forward, attention, convolution, half feed-forward; each is pre-norm."""

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    d = config.hidden_size
    self.norm_feed_forward1 = Norm(d)
    self.feed_forward1 = FeedForward(config, rngs=rngs)
    self.norm_self_att = Norm(d)
    self.self_attn = RelativeAttention(
      d, config.num_attention_heads, config.attention_bias, config.dropout, rngs=rngs
    )
    self.norm_conv = Norm(d)
    self.conv = Convolution(
      d, config.conv_kernel_size, config.convolution_bias, rngs=rngs
    )
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


class Conformer(Tower):
  """Log-mel frames (10 ms) -> encoder frames (80 ms).

  unroll: whether the loop over layers is unrolled; see `layers.unroll_layers`.
  """

  kind = 'conformer'

  def __init__(self, config: ConformerConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.unroll = False
    self.subsampling = Subsampling(
      config.num_mel_bins,
      config.subsampling_conv_channels,
      config.subsampling_factor,
      config.hidden_size,
      rngs=rngs,
    )
    keys = jax.random.split(rngs.params(), config.num_hidden_layers)
    self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """Encode packed utterances without dropout; see `encode`."""
    return self.encode(log_mel, segment_ids, remat=remat).frames

  def encode(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    key: Array | None = None,
    train_norm: bool = False,
    remat: str | None = None,
  ) -> Encoded:
    """Encode packed utterances; each starts at a multiple of the subsampling factor.

    key: for dropout; None is no dropout. train_norm: see `BatchNorm`.
    remat: what to keep for the backward pass, a key of `REMAT`; None keeps everything.
    """
    c = self.config
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
      return x, (moments, x)  # XLA removes outputs that are not used

    if remat is not None:
      layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    x = constrain(x, *HIDDEN_AXES)
    x, (moments, layer_frames) = jax.lax.scan(
      layer, x, (self.layers, keys), unroll=self.unroll
    )
    return Encoded(x, segment_ids, moments, layer_frames)
