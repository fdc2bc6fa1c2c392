# SPDX-License-Identifier: Apache-2.0
"""Loads a Llama from any of the formats it is published in, and saves it as one."""

import pathlib

import jax
import jax.numpy as jnp
from flax import nnx

from acl_jax.models import llama
from acl_jax.weights import gguf, table


def load_llama(
  path: str | pathlib.Path, dtype: jnp.dtype = jnp.float32
) -> llama.Llama:
  """The model in a Hugging Face folder, a GGUF file or a folder as Meta ships it."""
  path = pathlib.Path(path)
  form = gguf
  config, tensors = form.open_llama(path)
  rows = [r for r in form.LLAMA if r[1] != 'lm_head' or not config.tie_word_embeddings]
  abstract = jax.eval_shape(lambda: llama.Llama(config, rngs=nnx.Rngs(0)))
  return table.fill(
    abstract, rows, tensors, _sizes(config), source=str(path), dtype=dtype
  )


def _sizes(config: llama.Config) -> dict[str, int]:
  """The letters of the name tables; i is the number of rotated pairs, c the pair."""
  return {
    'd': config.hidden_size,
    'f': config.intermediate_size,
    'h': config.head_dim,
    'k': config.num_key_value_heads,
    'l': config.num_hidden_layers,
    'n': config.num_attention_heads,
    'v': config.vocab_size,
    'i': config.head_dim // 2,
    'c': 2,
  }
