# SPDX-License-Identifier: Apache-2.0
"""Whisper's audio encoder (Radford et al. 2022): two convolutions, then a transformer.

Audio has its true length or is padded to 30 s. Utterances may be packed: frames with
different segment ids do not affect each other, and 0 is padding.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.layers import (
  REMAT,
  Linear,
  Norm,
  attention,
  param,
  segment_mask,
  segment_positions,
  zeros,
)
from acl_jax.models.matrices import contract
from acl_jax.models.sizes import check_multiple, check_positive_integers
from acl_jax.models.taps import segment_taps
from acl_jax.models.tower import Tower
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
  """Sizes, named as Transformers' `WhisperConfig` names them."""

  num_mel_bins: int
  d_model: int
  encoder_layers: int
  encoder_attention_heads: int
  encoder_ffn_dim: int
  max_source_positions: int
  trailing_silence: int = 0  # log-mel frames after every utterance; not in its files

  def __post_init__(self):
    check_positive_integers(self, FILE_SIZES)
    check_multiple(self, 'd_model', 'encoder_attention_heads')
    if not 0 <= self.trailing_silence < self.max_frames:
      raise ValueError(
        f'trailing_silence = {self.trailing_silence} log-mel frames is not at least 0'
        f' and less than the {self.max_frames} of the encoder'
      )

  @property
  def output_size(self) -> int:
    """The width of an encoder frame."""
    return self.d_model

  @property
  def subsampling(self) -> int:
    """Log-mel frames per encoder frame."""
    return 2

  @property
  def max_frames(self) -> int:
    """The limit on log-mel frames of an utterance."""
    return 2 * self.max_source_positions

  @property
  def features(self) -> str:
    """The definition of log-mel spectrogram that it was trained with."""
    return 'whisper'


# The sizes that a Whisper's files state.
FILE_SIZES = tuple(
  field.name
  for field in dataclasses.fields(WhisperConfig)
  if field.default is dataclasses.MISSING
)


class Block(nnx.Module):
  """One layer: self-attention and feed-forward, pre-norm and residual."""

  def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
    width, ffn_width = config.d_model, config.encoder_ffn_dim
    self.num_heads = config.encoder_attention_heads
    self.self_attn_layer_norm = Norm(width)
    self.q_proj = Linear((width, width), ('embed', 'heads'), rngs=rngs)
    self.k_proj = param(rngs, (width, width), ('embed', 'heads'), inputs=1)  # no bias
    self.v_proj = Linear((width, width), ('embed', 'heads'), rngs=rngs)
    self.out_proj = Linear((width, width), ('heads', 'embed'), rngs=rngs)
    self.final_layer_norm = Norm(width)
    self.fc1 = Linear((width, ffn_width), ('embed', 'mlp'), rngs=rngs)
    self.fc2 = Linear((ffn_width, width), ('mlp', 'embed'), rngs=rngs)

  def __call__(
    self, x: Float[Array, 'b t d'], mask: Bool[Array, 'b t t']
  ) -> Float[Array, 'b t d']:
    heads = (*x.shape[:2], self.num_heads, -1)
    y = self.self_attn_layer_norm(x)
    k = contract(y, self.k_proj).reshape(heads)
    q, v = self.q_proj(y).reshape(heads), self.v_proj(y).reshape(heads)
    y = attention(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
    x = x + self.out_proj(y.reshape(x.shape))
    y = self.fc1(self.final_layer_norm(x))
    return x + self.fc2(jax.nn.gelu(y, approximate=False))


class Conv(nnx.Module):
  """A convolution of width 3 over each utterance, zero-padded by one frame.

  With stride 2, every utterance starts at an even position.
  """

  def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
    self.stride = stride
    self.weight = param(rngs, (3, inputs, outputs), ('conv', 'mels', 'embed'))
    self.bias = zeros(outputs)

  def __call__(
    self, x: Float[Array, 'b t i'], segment_ids: Int[Array, 'b t']
  ) -> Float[Array, 'b u o']:
    taps = jnp.stack(segment_taps(x, segment_ids, self.stride), axis=2)
    # Not a matrix product: this sums in the order of an ordinary convolution.
    y = jax.lax.conv_general_dilated(
      taps.reshape(len(x), -1, x.shape[-1]),
      self.weight[...].astype(x.dtype),
      window_strides=(3,),
      padding='VALID',
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class Whisper(Tower):
  """Log-mel frames (10 ms) -> encoder frames (20 ms).

  unroll: whether the loop over layers is unrolled; see `layers.unroll_layers`.
  """

  kind = 'whisper'

  def __init__(self, config: WhisperConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.unroll = False
    self.conv1 = Conv(config.num_mel_bins, config.d_model, stride=1, rngs=rngs)
    self.conv2 = Conv(config.d_model, config.d_model, stride=2, rngs=rngs)
    shape = (config.max_source_positions, config.d_model)
    self.embed_positions = param(rngs, shape, ('positions', 'embed'))
    keys = jax.random.split(rngs.params(), config.encoder_layers)
    self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    self.layer_norm = Norm(config.d_model)

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """Encode packed utterances; u = ceil(t / 2).

    A row may have any length; it becomes NaN if an utterance exceeds
    `max_source_positions`.
    """
    x = jax.nn.gelu(self.conv1(log_mel, segment_ids), approximate=False)
    x = jax.nn.gelu(self.conv2(x, segment_ids), approximate=False)
    segment_ids = segment_ids[:, ::2]
    positions = jnp.where(segment_ids > 0, segment_positions(segment_ids), 0)
    embeddings = jnp.take(self.embed_positions[...], positions, axis=0, mode='fill')
    x = x + embeddings.astype(x.dtype)
    mask = segment_mask(segment_ids)

    def layer(x, block):
      return constrain(block(x, mask), *HIDDEN_AXES), None

    if remat is not None:
      layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    x = constrain(x, *HIDDEN_AXES)
    x, _ = jax.lax.scan(layer, x, self.layers, unroll=self.unroll)
    return self.layer_norm(x)
