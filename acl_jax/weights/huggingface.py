# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a Llama in Hugging Face's format: `config.json` and safetensors."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acl_jax.models import llama
from acl_jax.weights import safetensors
from acl_jax.weights.configuration import make_llama_config, select_attributes
from acl_jax.weights.exported import read_submodel
from acl_jax.weights.tensor import Tensor

CONFIG = 'config.json'

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
LLAMA = (
  ('model.embed_tokens.weight', 'embed_tokens', 'v d -> v d'),
  *[
    (f'model.layers.{{}}.{name}.weight', f'layers.{name}'.replace('.', '/'), layout)
    for name, layout in _LAYER.items()
  ],
  ('model.norm.weight', 'norm', 'd -> d'),
  ('lm_head.weight', 'lm_head', 'v d -> d v'),
)

FIELD_NAMES = {
  field.name: field.name for field in dataclasses.fields(llama.LlamaConfig)
} | {'rope_parameters': 'rope_parameters'}
DEFAULTS = {  # of Transformers' LlamaConfig
  'max_position_embeddings': 2048,
  'rms_norm_eps': 1e-6,
  'rope_theta': 10_000.0,
  'tie_word_embeddings': False,
}
SUPPORTED_VALUES = {
  'attention_bias': (False,),
  'hidden_act': ('silu',),
  'mlp_bias': (False,),
  'model_type': ('llama',),
  'partial_rotary_factor': (1.0,),
  'quantization_config': (None,),
  'rope_interleaved': (False,),
  'rope_scaling': (None, {'rope_type': 'default'}, {'type': 'default'}),
  'sliding_window': (None,),
}
SUPPORTED_ROPE_VALUES = {'rope_type': ('default',), 'partial_rotary_factor': (1.0,)}
# fmt: off
IGNORED = (
  '_model_name_or_path', '_name_or_path', 'architectures', 'transformers_version',
  'dtype', 'torch_dtype', 'use_cache', 'transformers.js_config',
  'bos_token_id', 'eos_token_id', 'pad_token_id', 'unk_token_id', 'max_length',
  'attention_dropout', 'initializer_range', 'is_llama_config',  # used in training only
  'pretraining_tp',  # changes the order of a sum
)
# fmt: on


def read_llama(folder: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """Return the configuration and the tensors of a Llama; tensors are not read yet."""
  config_json, tensors = read_submodel(folder, 'text_config', 'language_model.')
  config = _parse_config(config_json, folder / CONFIG)
  for name in list(tensors):
    # Old files hold the RoPE frequencies, and tied matrices twice.
    if name.endswith('.rotary_emb.inv_freq') or (
      name == 'lm_head.weight' and config.tie_word_embeddings
    ):
      del tensors[name]
  return config, tensors


def _parse_config(config: dict[str, Any], path: Path) -> llama.LlamaConfig:
  if config.get('model_type') != 'llama':
    raise ValueError(f'{path}: model_type is {config.get("model_type")!r}, not llama')
  fields = select_attributes(
    config,
    field_names=FIELD_NAMES,
    supported_values=SUPPORTED_VALUES,
    ignored=IGNORED,
    source=path,
  )
  rope = fields.pop('rope_parameters', {})
  if not isinstance(rope, dict):
    raise ValueError(f'{path}: rope_parameters = {rope!r:.60} is not a JSON object')
  rope = select_attributes(
    rope,
    field_names={'rope_theta': 'rope_theta'},
    supported_values=SUPPORTED_ROPE_VALUES,
    ignored=(),
    source=path,
  )
  if fields.get('rope_theta') not in (None, rope.get('rope_theta')) and rope:
    raise ValueError(f'{path}: rope_theta and rope_parameters disagree')
  return make_llama_config(DEFAULTS | fields | rope, source=path)


def describe_llama(config: llama.LlamaConfig, dtype: str) -> dict[str, Any]:
  """Return the `config.json` of a Llama, for Transformers 4 and 5."""
  return {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    **dataclasses.asdict(config),
    'rope_parameters': {'rope_type': 'default', 'rope_theta': config.rope_theta},
    'torch_dtype': dtype,
  }


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
