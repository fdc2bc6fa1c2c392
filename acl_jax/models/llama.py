# SPDX-License-Identifier: Apache-2.0
"""Llama and its siblings (SmolLM3, Mistral, Qwen2, Qwen3) over embeddings.

Families differ by options of `LlamaConfig`, which are data.

Positions, mask and KV cache are explicit arguments; packing, mixed modalities and
decoding are left to the caller. Parameters are named as Hugging Face names them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.cache import KVCache, empty_cache
from acl_jax.models.layers import REMAT, attention, ones, param, rms_norm
from acl_jax.models.llama_config import LlamaConfig
from acl_jax.models.matrices import contract, score_rows
from acl_jax.models.paged_cache import PagedCache
from acl_jax.models.splash import PackedCausalMask, packed_attention
from acl_jax.models.window import is_among, layer_masks
from acl_jax.sharding.rules import HIDDEN_AXES, constrain


class Attention(nnx.Module):
  """Grouped-query self-attention with rotary positions."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, h = config.hidden_size, config.head_dim
    n, k = config.num_attention_heads, config.num_key_value_heads
    self.rope, self.no_rope_layers = config.rope, config.no_rope_layers
    self.eps = config.rms_norm_eps
    self.q_proj = param(rngs, (d, n, h), ('embed', 'heads', 'head_dim'), inputs=1)
    self.k_proj = param(rngs, (d, k, h), ('embed', 'kv_heads', 'head_dim'), inputs=1)
    self.v_proj = param(rngs, (d, k, h), ('embed', 'kv_heads', 'head_dim'), inputs=1)
    self.o_proj = param(rngs, (n, h, d), ('heads', 'head_dim', 'embed'), inputs=2)
    biased, normed = config.attention_bias, config.qk_norm
    self.q_bias = _bias(n, h, 'heads') if biased else None
    self.k_bias = _bias(k, h, 'kv_heads') if biased else None
    self.v_bias = _bias(k, h, 'kv_heads') if biased else None
    self.q_norm = ones(h, 'head_dim') if normed else None
    self.k_norm = ones(h, 'head_dim') if normed else None

  def __call__(self, x, positions, mask, prefix_cache, cache, layer, index):
    query = self._project(x, self.q_proj, self.q_bias)
    query = self._rotate(query, self.q_norm, positions, layer)
    key = self._project(x, self.k_proj, self.k_bias)
    key = self._rotate(key, self.k_norm, positions, layer)
    value = self._project(x, self.v_proj, self.v_bias)
    if cache is not None:
      cache = cache.write(key, value, layer, index)
      y = cache.attend(query, mask, layer)
    else:
      key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
      cache = KVCache(key, value)
      if prefix_cache is not None:
        key = _prepend_prefix(prefix_cache.key, key)
        value = _prepend_prefix(prefix_cache.value, value)
      if isinstance(mask, PackedCausalMask):
        y = packed_attention(query, key, value, mask)
      else:
        y = attention(query, key, value, mask)
    return contract(y, self.o_proj, axes=2), cache

  def _project(self, x, matrix, bias):
    y = contract(x, matrix)
    if bias is None:
      return y
    return y + jnp.broadcast_to(bias[...].astype(y.dtype), y.shape)

  def _rotate(self, x, norm, positions, layer):
    """Normalise and rotate the heads of queries or keys as far as the model does."""
    if norm is not None:
      x = rms_norm(x, norm[...], self.eps)
    y = self.rope(x, positions)
    if not self.no_rope_layers:
      return y
    return jnp.where(is_among(layer, self.no_rope_layers), x, y)


def _bias(heads: int, head_dim: int, axis: str) -> nnx.Param:
  return nnx.Param(jnp.zeros((heads, head_dim)), axes=(axis, 'head_dim'))


def _prepend_prefix(
  prefix: Float[Array, '1 k p h'], x: Float[Array, 'b k t h']
) -> Float[Array, 'b k s h']:
  """Prepend the keys or values of the shared prefix to those of every row."""
  prefix = jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:]))
  return jnp.concatenate([prefix.astype(x.dtype), x], axis=2)


class MLP(nnx.Module):
  """Gated feed-forward layer, SwiGLU."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, f = config.hidden_size, config.intermediate_size
    self.gate_proj = param(rngs, (d, f), ('embed', 'mlp'), inputs=1)
    self.up_proj = param(rngs, (d, f), ('embed', 'mlp'), inputs=1)
    self.down_proj = param(rngs, (f, d), ('mlp', 'embed'), inputs=1)

  def __call__(self, x):
    y = jax.nn.silu(contract(x, self.gate_proj)) * contract(x, self.up_proj)
    return contract(y, self.down_proj)


class Block(nnx.Module):
  """One layer: attention and feed-forward, pre-norm and residual."""

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    self.eps = config.rms_norm_eps
    self.input_layernorm = ones(config.hidden_size)
    self.self_attn = Attention(config, rngs=rngs)
    self.post_attention_layernorm = ones(config.hidden_size)
    self.mlp = MLP(config, rngs=rngs)

  def __call__(
    self, x, positions, mask, prefix_cache=None, cache=None, layer=0, index=None
  ):
    y = rms_norm(x, self.input_layernorm[...], self.eps)
    y, cache = self.self_attn(y, positions, mask, prefix_cache, cache, layer, index)
    x = constrain(x + y, *HIDDEN_AXES)
    y = rms_norm(x, self.post_attention_layernorm[...], self.eps)
    return constrain(x + self.mlp(y), *HIDDEN_AXES), cache


class Llama(nnx.Module):
  """The transformer between `embed` and `logits`.

  unroll: whether the loop over layers is unrolled; see `layers.unroll_layers`.
  """

  def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
    d, v = config.hidden_size, config.vocab_size
    self.config = config
    self.unroll = False
    self.embed_tokens = param(rngs, (v, d), ('vocab', 'embed'))
    keys = jax.random.split(rngs.params(), config.num_hidden_layers)
    self.layers = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    self.norm = ones(d)
    if not config.tie_word_embeddings:
      self.lm_head = param(rngs, (d, v), ('embed', 'vocab'), inputs=1)

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of the embeddings."""
    return self.norm[...].dtype

  def embed(self, tokens: Int[Array, '*b']) -> Float[Array, '*b d']:
    """Look up token embeddings, in the dtype of the table."""
    return self.embed_tokens[tokens]

  def logits(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t v']:
    """Return logits of the next token in float32."""
    # float32: the loss subtracts large numbers
    if self.config.tie_word_embeddings:
      y = score_rows(x, self.embed_tokens, jnp.float32)
    else:
      y = contract(x, self.lm_head, dtype=jnp.float32)
    return constrain(y, 'batch', 'time', 'vocab')

  def __call__(
    self,
    x: Float[Array, 'b t d'],
    positions: Int[Array, 'b t'],
    mask: Bool[Array, 'b t s'] | PackedCausalMask,
    cache: KVCache | PagedCache | None = None,
    index: Int[Array, ' b'] | None = None,
    remat: str | None = None,
    prefix_cache: KVCache | None = None,
  ) -> tuple[Float[Array, 'b t d'], Any]:
    """Run all layers; returns hidden states after the final norm, and keys and values.

    Computes in the dtype of `x`. Without `cache` the keys are those of the t inputs,
    and they are returned. With `cache` the keys are its s positions: row i writes its
    inputs at positions index[i]..index[i] + t - 1, drops those beyond the end, and the
    updated cache is returned. A `PagedCache` knows where to write, without `index`.

    mask: the keys that each query attends to; on TPUs and without `cache` it may be a
      `PackedCausalMask`.
    prefix_cache: keys and values of the shared prefix, a single row. They precede the
      keys of all b rows, also in `mask`. Not together with `cache`.
    remat: what to keep for the backward pass, a key of `REMAT`; None keeps everything.
    """
    if remat is not None and remat not in REMAT:
      raise ValueError(f'remat = {remat!r} is not one of {sorted(REMAT)}')

    c, cached = self.config, cache is not None
    mask_of = layer_masks(mask, c.sliding_window, c.full_attention_layers, cached)

    def layer(carry, inputs) -> tuple[Any, Any]:
      x, cache = carry
      block, number, prefix = inputs
      x = constrain(x, *HIDDEN_AXES)
      x, new = block(x, positions, mask_of(number), prefix, cache, number, index)
      # The cache is carried, not stacked, so that XLA updates it in place.
      return ((x, None), new) if cache is None else ((x, new), None)

    if remat is not None:
      layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    x = constrain(x, *HIDDEN_AXES)
    numbers = jnp.arange(self.config.num_hidden_layers)
    (x, carried), stacked = jax.lax.scan(
      layer, (x, cache), (self.layers, numbers, prefix_cache), unroll=self.unroll
    )
    x = rms_norm(x, self.norm[...], self.config.rms_norm_eps)
    return x, stacked if carried is None else carried

  def empty_cache(self, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """Create an empty cache of `length` positions a row; `dtype` int8 quantises."""
    c = self.config
    shape = (c.num_hidden_layers, batch, c.num_key_value_heads, length, c.head_dim)
    return empty_cache(shape, self.dtype, dtype)
