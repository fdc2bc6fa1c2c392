# SPDX-License-Identifier: Apache-2.0
"""Llama-2 and its relatives (7B, 13B, 70B, SmolLM2) over embeddings.

Positions, mask and key/value cache are explicit, so that packing, mixed modalities and
decoding are the caller's matter. Parameters are named as Hugging Face names them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.cache import CacheMask, KVCache, empty_cache
from acl_jax.models.layers import REMAT, attention, ones, param, project, rms_norm, rope
from acl_jax.models.splash import PackedCausalMask, packed_attention
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """The numbers that define a model, by Hugging Face's names."""

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  head_dim: int
  rope_theta: float
  rms_norm_eps: float
  tie_word_embeddings: bool
  max_position_embeddings: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if name != 'tie_word_embeddings' and not 0 < value < math.inf:
        raise ValueError(f'{name} = {value} is not positive')
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(
        f'num_attention_heads = {self.num_attention_heads} is not a multiple of'
        f' num_key_value_heads = {self.num_key_value_heads}'
      )
    if self.head_dim % 2:
      raise ValueError(f'head_dim = {self.head_dim} is odd; rotations need pairs')


class Attention(nnx.Module):
  """Grouped-query self-attention with rotary positions."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, h = config.hidden_size, config.head_dim
    n, k = config.num_attention_heads, config.num_key_value_heads
    self.theta = config.rope_theta
    self.q_proj = param(rngs, (d, n, h), ('embed', 'heads', 'head_dim'))
    self.k_proj = param(rngs, (d, k, h), ('embed', 'kv_heads', 'head_dim'))
    self.v_proj = param(rngs, (d, k, h), ('embed', 'kv_heads', 'head_dim'))
    self.o_proj = param(rngs, (n, h, d), ('heads', 'head_dim', 'embed'))

  def __call__(self, x, positions, mask, prefix, cache, layer, index):
    query = rope(project(x, self.q_proj), positions, self.theta)
    key = rope(project(x, self.k_proj), positions, self.theta)
    value = project(x, self.v_proj)
    if cache is not None:
      cache = cache.write(key, value, layer, index)
      y = cache.attend(query, mask, layer)
    else:
      key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
      cache = KVCache(key, value)
      if prefix is not None:
        key, value = (
          _prepend_prefix(*pair) for pair in zip(prefix, (key, value), strict=True)
        )
      if isinstance(mask, PackedCausalMask):
        y = packed_attention(query, key, value, mask)
      else:
        y = attention(query, key, value, mask)
    return jnp.einsum('btnh,nhd->btd', y, self.o_proj[...].astype(x.dtype)), cache


def _prepend_prefix(
  shared: Float[Array, '1 k p h'], own: Float[Array, 'b k t h']
) -> Float[Array, 'b k s h']:
  """Every row's own keys or values behind those that all rows share."""
  shared = jnp.broadcast_to(shared, (len(own), *shared.shape[1:]))
  return jnp.concatenate([shared.astype(own.dtype), own], axis=2)


class MLP(nnx.Module):
  """The gated feed-forward layer, SwiGLU."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, f = config.hidden_size, config.intermediate_size
    self.gate_proj = param(rngs, (d, f), ('embed', 'mlp'))
    self.up_proj = param(rngs, (d, f), ('embed', 'mlp'))
    self.down_proj = param(rngs, (f, d), ('mlp', 'embed'))

  def __call__(self, x):
    gate, up, down = (
      w[...].astype(x.dtype) for w in (self.gate_proj, self.up_proj, self.down_proj)
    )
    y = jax.nn.silu(jnp.einsum('btd,df->btf', x, gate))
    y = y * jnp.einsum('btd,df->btf', x, up)
    return jnp.einsum('btf,fd->btd', y, down)


class Block(nnx.Module):
  """One layer: attention and feed-forward, each normed before and added after."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    self.eps = config.rms_norm_eps
    self.input_layernorm = ones(config.hidden_size)
    self.self_attn = Attention(config, rngs=rngs)
    self.post_attention_layernorm = ones(config.hidden_size)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(self, x, positions, mask, prefix=None, cache=None, layer=0, index=None):
    y = rms_norm(x, self.input_layernorm[...], self.eps)
    y, cache = self.self_attn(y, positions, mask, prefix, cache, layer, index)
    x = constrain(x + y, *HIDDEN_AXES)
    y = rms_norm(x, self.post_attention_layernorm[...], self.eps)
    return constrain(x + self.mlp(y), *HIDDEN_AXES), cache


class Llama(nnx.Module):
  """The transformer between `embed` and `logits`."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, v = config.hidden_size, config.vocab_size
    self.config = config
    self.embed_tokens = param(rngs, (v, d), ('vocab', 'embed'))
    keys = jax.random.split(rngs.params(), config.num_hidden_layers)
    self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    self.norm = ones(d)
    if not config.tie_word_embeddings:
      self.lm_head = param(rngs, (d, v), ('embed', 'vocab'))

  @property
  def dtype(self) -> jnp.dtype:
    """That of the embeddings."""
    return self.norm[...].dtype

  def embed(self, tokens: Int[Array, '*b']) -> Float[Array, '*b d']:
    """The embedding of every token, in the dtype of the table."""
    return self.embed_tokens[tokens]

  def logits(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    """The next token's scores, float32."""
    if self.config.tie_word_embeddings:
      w, letters = self.embed_tokens, 'btd,vd->btv'
    else:
      w, letters = self.lm_head, 'btd,dv->btv'
    w = w[...].astype(x.dtype)
    # float32: the loss subtracts large numbers
    y = jnp.einsum(letters, x, w, preferred_element_type=jnp.float32)
    return constrain(y, 'batch', 'time', 'vocab')

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    positions: Int[Array, 'b t'],
    mask: Bool[Array, 'b t s'] | PackedCausalMask,
    cache: KVCache | None = None,
    index: Int[Array, ' b'] | None = None,
    remat: str | None = None,
    prefix: KVCache | None = None,
  ) -> tuple[Float[Array, 'b t d'], KVCache]:
    """Embeddings -> (hidden states after the final norm, keys and values).

    mask: which of the s keys a query sees; `Packed` says it of packed prompts, on TPUs
      and not with `cache`. Without `cache` the keys are those of the t inputs, and are
      returned. With it they are those in its places, of which the
      inputs of a row take index..index+t (beyond the last, nothing is written); it is
      returned with these.
    prefix: keys and values of one row that stand before those of all b rows, and before
      them in `mask`. Not with `cache`.
    remat: what to keep for the backward pass, a key of `REMAT`; None keeps everything.
    Computes in the dtype of `x`.
    """
    if remat is not None and remat not in REMAT:
      raise ValueError(f'remat = {remat!r} is none of {sorted(REMAT)}')

    def layer(carry, inputs) -> tuple[Any, Any]:
      x, cache = carry
      block, number, prefix = inputs
      x = constrain(x, *HIDDEN_AXES)
      x, new = block(x, positions, seen, prefix, cache, number, index)
      # A cache is carried, not stacked: XLA then writes it in place.
      return ((x, None), new) if cache is None else ((x, new), None)

    if remat is not None:
      layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    seen = (
      mask
      if cache is None or isinstance(mask, PackedCausalMask)
      else CacheMask.of(mask)
    )
    x = constrain(x, *HIDDEN_AXES)
    numbers = jnp.arange(self.config.num_hidden_layers)
    (x, carried), stacked = jax.lax.scan(
      layer, (x, cache), (self.layers, numbers, prefix)
    )
    x = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
    return x, stacked if carried is None else carried

  def empty_cache(self, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """A cache of `length` places in each row, none of them written; int8 rounds."""
    c = self.config
    shape = (c.num_hidden_layers, batch, c.num_key_value_heads, length, c.head_dim)
    return empty_cache(shape, self.dtype, dtype)
