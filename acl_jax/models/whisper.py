# SPDX-License-Identifier: Apache-2.0
"""Whisper's audio encoder (Radford et al. 2022): two convolutions, then a transformer.

It accepts audio of its true length as well as audio padded to 30 s.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.layers import Linear, Norm, attention, param, zeros
from acl_jax.models.matrices import contract


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
  """Sizes, named as Transformers' `WhisperConfig` names them."""

  num_mel_bins: int
  d_model: int
  encoder_layers: int
  encoder_attention_heads: int
  encoder_ffn_dim: int
  max_source_positions: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if type(value) is not int or value < 1:
        raise ValueError(f'{field.name} = {value!r} is not a positive integer')
    if self.d_model % self.encoder_attention_heads:
      raise ValueError(
        f'd_model = {self.d_model} is not a multiple of encoder_attention_heads ='
        f' {self.encoder_attention_heads}'
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
  """A convolution over time of width 3, zero-padded by one frame on each side."""

  def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
    self.stride = stride
    self.weight = param(rngs, (3, inputs, outputs), ('conv', 'mels', 'embed'))
    self.bias = zeros(outputs)

  def __call__(self, x: Float[Array, 'b t i']) -> Float[Array, 'b u o']:
    y = jax.lax.conv_general_dilated(
      x,
      self.weight[...].astype(x.dtype),
      window_strides=(self.stride,),
      padding=[(1, 1)],
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class Whisper(nnx.Module):
  """Log-mel frames (10 ms) -> encoder frames (20 ms).

  unroll: whether the loop over layers is unrolled; see `layers.unroll_layers`.
  """

  kind = 'whisper'
  packs = False
  recognises = False

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

  @property
  def tower(self) -> 'Whisper':
    """The encoder itself: it has no CTC head."""
    return self

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """Encode one utterance a row; nothing is recomputed, whatever `remat`."""
    del remat
    return self(log_mel, segment_ids > 0)[0]

  def greedy(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u']
  ) -> None:
    """Return nothing: it does not recognise."""
    del frames, frame_mask

  def __call__(
    self, log_mel: Float[Array, 'b t m'], frame_mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, 'b u d'], Bool[Array, 'b u']]:
    """Encode one utterance a row; returns frames and their mask. u = ceil(t / 2)."""
    limit = self.config.max_frames
    if log_mel.shape[1] > limit:
      raise ValueError(
        f'audio has {log_mel.shape[1]} frames; the limit of Whisper is {limit}'
      )
    # Padding is zeroed before each convolution mixes time.
    x = jax.nn.gelu(self.conv1(log_mel * frame_mask[..., None]), approximate=False)
    x = jax.nn.gelu(self.conv2(x * frame_mask[..., None]), approximate=False)
    frame_mask = frame_mask[:, ::2]
    positions = self.embed_positions[...][None, : x.shape[1]]
    x = x + jnp.broadcast_to(positions.astype(x.dtype), x.shape)
    mask = jnp.broadcast_to(frame_mask[:, None, :], (*x.shape[:2], x.shape[1]))
    x, _ = jax.lax.scan(
      lambda x, block: (block(x, mask), None), x, self.layers, unroll=self.unroll
    )
    return self.layer_norm(x), frame_mask
