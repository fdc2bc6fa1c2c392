# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a Llama in Hugging Face's format: `config.json` and safetensors."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from acl_jax.models import llama
from acl_jax.weights import safetensors
from acl_jax.weights.exported import read_submodel
from acl_jax.weights.llama_config import describe_llama, parse_llama_config
from acl_jax.weights.tensor import Tensor

CONFIG = 'config.json'
ROWS = 4_096  # of a matrix that are compared at once

_LAYER = {  # the names are the same in the model
  'input_layernorm': 'd -> d',
  'self_attn.q_proj': '(n h) d -> d n h',
  'self_attn.k_proj': '(k h) d -> d k h',
  'self_attn.v_proj': '(k h) d -> d k h',
  'self_attn.o_proj': 'd (n h) -> n h d',
  'post_attention_layernorm': 'd -> d',
  'mlp.gate_proj': 'f d -> d f',
  'mlp.up_proj': 'f d -> d f',
  'mlp.down_proj': 'd f -> f d',
}
_OPTIONAL = {  # of models that have them
  'self_attn.q_proj.bias': ('q_bias', '(n h) -> n h'),
  'self_attn.k_proj.bias': ('k_bias', '(k h) -> k h'),
  'self_attn.v_proj.bias': ('v_bias', '(k h) -> k h'),
  'self_attn.q_norm.weight': ('q_norm', 'h -> h'),
  'self_attn.k_norm.weight': ('k_norm', 'h -> h'),
}
EMBEDDING, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
LLAMA = (
  (EMBEDDING, 'embed_tokens', 'v d -> v d'),
  *[
    (f'model.layers.{{}}.{name}.weight', f'layers.{name}'.replace('.', '/'), layout)
    for name, layout in _LAYER.items()
  ],
  *[
    (f'model.layers.{{}}.{name}', f'layers/self_attn/{parameter}', layout)
    for name, (parameter, layout) in _OPTIONAL.items()
  ],
  ('model.norm.weight', 'norm', 'd -> d'),
  (HEAD, 'lm_head', 'v d -> d v'),
)


def read_llama(folder: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """Return the configuration and the tensors of a Llama; tensors are not read yet."""
  config_json, tensors = read_submodel(folder, 'text_config', 'language_model.')
  config = parse_llama_config(config_json, folder / CONFIG)
  # Old files hold the RoPE frequencies.
  tensors = {k: t for k, t in tensors.items() if not k.endswith('.rotary_emb.inv_freq')}
  if config.tie_word_embeddings and HEAD in tensors:
    # Some files hold tied matrices twice; others were trained apart and still say tied.
    if _are_equal(tensors[HEAD], tensors.get(EMBEDDING)):
      del tensors[HEAD]
    else:
      config = dataclasses.replace(config, tie_word_embeddings=False)
  return config, tensors


def _are_equal(a: Tensor, b: Tensor | None) -> bool:
  """Compare two tensors, some rows at a time."""
  if b is None or a.shape != b.shape:
    return False
  blocks = [slice(i, min(i + ROWS, a.shape[0])) for i in range(0, a.shape[0], ROWS)]
  rest = [slice(0, size) for size in a.shape[1:]]
  return all(
    np.array_equal(a.read_slice((rows, *rest)), b.read_slice((rows, *rest)))
    for rows in blocks
  )


def write_llama(
  folder: Path,
  config: llama.LlamaConfig,
  tensors: Iterable[tuple[str, Tensor]],
  dtype: str,
) -> None:
  """Write a folder that `read_llama` and Transformers read."""
  safetensors.write(folder, tensors)
  config_json = json.dumps(describe_llama(config, dtype), indent=2)
  (folder / CONFIG).write_text(config_json + '\n')
