# SPDX-License-Identifier: Apache-2.0
"""Whisper's text decoder (Radford et al. 2022), which can follow any encoder.

One function, `decode`, runs a whole sequence at once or continues a cached one.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.layers import Linear, Norm, attention, param
from acl_jax.models.sizes import check_multiple, check_positive_integers


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes, named as Transformers' `WhisperConfig` names them."""

  d_model: int
  decoder_layers: int
  decoder_attention_heads: int
  decoder_ffn_dim: int
  max_target_positions: int

  def __post_init__(self):
    check_positive_integers(self, [f.name for f in dataclasses.fields(DecoderConfig)])
    check_multiple(self, 'd_model', 'decoder_attention_heads')


class KeysValues(NamedTuple):
  """Keys and values of attention; with a leading layer axis if stacked."""

  keys: Float[Array, '*l b n s h']
  values: Float[Array, '*l b n s h']


class Memory(NamedTuple):
  """What the decoder attends to of a recordings' encoder frames, for every layer.

  As many sequences, or k times as many, may be decoded: the first k of the first
  recording, and so on.
  """

  cross: KeysValues
  mask: Bool[Array, 'a s']


class MultiHeadAttention(nnx.Module):
  """Attention from decoder states to `source_size` wide states."""

  def __init__(self, width: int, source_size: int, num_heads: int, *, rngs: nnx.Rngs):
    self.num_heads = num_heads
    self.q_proj = Linear((width, width), ('embed', 'heads'), rngs=rngs)
    shape = (source_size, width)
    self.k_proj = Linear(shape, ('embed', 'heads'), bias=False, rngs=rngs)
    self.v_proj = Linear(shape, ('embed', 'heads'), rngs=rngs)
    self.out_proj = Linear((width, width), ('heads', 'embed'), rngs=rngs)

  def keys_values(self, source: Float[Array, 'b s d']) -> KeysValues:
    """Project to keys and values."""
    heads = (*source.shape[:2], self.num_heads, -1)
    keys, values = self.k_proj(source), self.v_proj(source)
    return KeysValues(
      keys.reshape(heads).swapaxes(1, 2), values.reshape(heads).swapaxes(1, 2)
    )

  def __call__(
    self, x: Float[Array, 'b t d'], source: KeysValues, mask: Bool[Array, 'b t s']
  ) -> Float[Array, 'b t d']:
    y = attention(self._query(x), *source, mask)
    return self.out_proj(y.reshape(x.shape))

  def weights(
    self,
    x: Float[Array, 'b t d'],
    keys: Float[Array, 'b n s h'],
    mask: Bool[Array, 'b s'],
  ) -> Float[Array, 'b n t s']:
    """Return how much each state attends to each key."""
    query = self._query(x)
    scores = jnp.einsum('btnh,bnsh->bnts', query * query.shape[-1] ** -0.5, keys)
    return jax.nn.softmax(scores, axis=-1, where=mask[:, None, None])

  def _query(self, x):
    return self.q_proj(x).reshape(*x.shape[:2], self.num_heads, -1)


class DecoderBlock(nnx.Module):
  """One layer: self-attention, attention to the encoder frames, and feed-forward."""

  def __init__(self, config: DecoderConfig, encoder_size: int, *, rngs: nnx.Rngs):
    d, f, n = config.d_model, config.decoder_ffn_dim, config.decoder_attention_heads
    self.self_attn_layer_norm = Norm(d)
    self.self_attn = MultiHeadAttention(d, d, n, rngs=rngs)
    self.encoder_attn_layer_norm = Norm(d)
    self.encoder_attn = MultiHeadAttention(d, encoder_size, n, rngs=rngs)
    self.final_layer_norm = Norm(d)
    self.fc1 = Linear((d, f), ('embed', 'mlp'), rngs=rngs)
    self.fc2 = Linear((f, d), ('mlp', 'embed'), rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    cache: KeysValues,
    cross: KeysValues,
    start: Int[Array, ''] | int,
    masks: tuple[Bool[Array, 'b t r'], Bool[Array, 'a kt s']],
  ) -> tuple[Float[Array, 'b t d'], KeysValues, Float[Array, 'b t d']]:
    """Run positions `start` to `start + t`.

    Returns states, the cache with them, and what attends to the encoder frames.
    """
    y = self.self_attn_layer_norm(x)
    cache = KeysValues(
      *(
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=2)
        for old, new in zip(cache, self.self_attn.keys_values(y), strict=True)
      )
    )
    x = x + self.self_attn(y, cache, masks[0])
    attending = self.encoder_attn_layer_norm(x)
    # Sequences of one recording are as more positions to attention without an order.
    positions = attending.reshape(*masks[1].shape[:2], -1)
    x = x + self.encoder_attn(positions, cross, masks[1]).reshape(x.shape)
    y = jax.nn.gelu(self.fc1(self.final_layer_norm(x)), approximate=False)
    return x + self.fc2(y), cache, attending


class AttentionDecoder(nnx.Module):
  """Embeddings of a target sequence -> hidden states, given the encoder frames.

  encoder_size: width of the encoder frames. unroll: whether the loop over layers is
  unrolled; see `layers.unroll_layers`.
  """

  def __init__(self, config: DecoderConfig, encoder_size: int, *, rngs: nnx.Rngs):
    self.unroll = False
    shape = (config.max_target_positions, config.d_model)
    self.embed_positions = param(rngs, shape, ('positions', 'embed'))
    keys = jax.random.split(rngs.params(), config.decoder_layers)

    def create(key) -> DecoderBlock:
      return DecoderBlock(config, encoder_size, rngs=nnx.Rngs(key))

    self.layers = jax.vmap(create)(keys)
    self.layer_norm = Norm(config.d_model)

  def attend_to(
    self, frames: Float[Array, 'b s d'], frame_mask: Bool[Array, 'b s']
  ) -> Memory:
    """Project encoder frames to the keys and values of every layer."""
    frames = jnp.where(frame_mask[..., None], frames, 0)
    _, cross = jax.lax.scan(
      lambda _, block: (None, block.encoder_attn.keys_values(frames)),
      None,
      self.layers,
      unroll=self.unroll,
    )
    return Memory(cross, frame_mask)

  def empty_cache(self, memory: Memory, length: int, sequences: int = 1) -> KeysValues:
    """Return a cache of self-attention for `length` positions.

    sequences: of each recording.
    """
    layers, a, n, _, h = memory.cross.keys.shape
    zeros = jnp.zeros((layers, a * sequences, n, length, h), memory.cross.keys.dtype)
    return KeysValues(zeros, zeros)

  def decode(
    self,
    x: Float[Array, 'b t d'],
    memory: Memory,
    cache: KeysValues,
    start: Int[Array, ''] | int = 0,
  ) -> tuple[Float[Array, 'b t d'], KeysValues]:
    """Return hidden states of positions `start` to `start + t`, and the cache."""
    hidden, cache, _ = self._run(x, memory, cache, start)
    return hidden, cache

  def decode_and_attend(
    self, x: Float[Array, 'b t d'], memory: Memory
  ) -> tuple[Float[Array, 'b t d'], Float[Array, 'b t s']]:
    """Return hidden states, and how much each attends to each encoder frame.

    The mean over the heads of the upper half of the layers, which follow the speech.
    """
    cache = self.empty_cache(memory, x.shape[1])
    hidden, _, attending = self._run(x, memory, cache, 0)
    upper = lambda tree: jax.tree.map(lambda leaf: leaf[len(attending) // 2 :], tree)  # noqa: E731
    weights = jax.vmap(
      lambda block, y, keys: block.encoder_attn.weights(y, keys, memory.mask)
    )(upper(self.layers), upper(attending), upper(memory.cross.keys))
    return hidden, jnp.mean(weights, axis=(0, 2))

  def _run(self, x, memory, cache, start):
    b, t, _ = x.shape
    positions = jax.lax.dynamic_slice_in_dim(self.embed_positions[...], start, t)
    x = x + jnp.broadcast_to(positions.astype(x.dtype), x.shape)
    query, key = start + jnp.arange(t), jnp.arange(cache.keys.shape[3])
    causal = jnp.broadcast_to((key[None] <= query[:, None])[None], (b, t, len(key)))
    a, frames = memory.mask.shape
    cross_mask = jnp.broadcast_to(memory.mask[:, None], (a, b * t // a, frames))

    def run(x, inputs):
      block, cache, cross = inputs
      x, cache, attending = block(x, cache, cross, start, (causal, cross_mask))
      return x, (cache, attending)

    inputs = self.layers, cache, memory.cross
    x, (cache, attending) = jax.lax.scan(run, x, inputs, unroll=self.unroll)
    return self.layer_norm(x), cache, attending
