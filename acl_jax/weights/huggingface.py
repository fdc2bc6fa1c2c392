# SPDX-License-Identifier: Apache-2.0
"""A Llama in a Hugging Face folder: `config.json` and safetensors."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acl_jax.models import llama
from acl_jax.weights import safetensors
from acl_jax.weights.configuration import build_llama, select
from acl_jax.weights.exported import open_part
from acl_jax.weights.table import Tensor

CONFIG = 'config.json'

_LAYER = {  # our names are theirs
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
  *(
    (f'model.layers.{{}}.{name}.weight', f'layers.{name}'.replace('.', '/'), layout)
    for name, layout in _LAYER.items()
  ),
  ('model.norm.weight', 'norm', 'd -> d'),
  ('lm_head.weight', 'lm_head', 'v d -> d v'),
)

USED = {field.name: field.name for field in dataclasses.fields(llama.LlamaConfig)} | {
  'rope_parameters': 'rope_parameters'
}
DEFAULTS = {  # what Transformers' LlamaConfig takes when they are left out
  'max_position_embeddings': 2048,
  'rms_norm_eps': 1e-6,
  'rope_theta': 10_000.0,
  'tie_word_embeddings': False,
}
FIXED = {
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
FIXED_ROPE = {'rope_type': ('default',), 'partial_rotary_factor': (1.0,)}
HARMLESS = (
  *('_model_name_or_path', '_name_or_path', 'architectures', 'transformers_version'),
  *('dtype', 'torch_dtype', 'use_cache', 'transformers.js_config'),
  *('bos_token_id', 'eos_token_id', 'pad_token_id', 'unk_token_id', 'max_length'),
  *('attention_dropout', 'initializer_range', 'is_llama_config'),  # of training
  'pretraining_tp',  # the order of a sum
)


def open_llama(folder: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """The configuration and the tensors of the Llama in `folder`."""
  found, tensors = open_part(folder, 'text_config', 'language_model.')
  config = _configuration(found, folder / CONFIG)
  for name in list(tensors):
    # Old files hold the frequencies of the rotations, and tied matrices twice.
    if name.endswith('.rotary_emb.inv_freq') or (
      name == 'lm_head.weight' and config.tie_word_embeddings
    ):
      del tensors[name]
  return config, tensors


def _configuration(found: dict[str, Any], path: Path) -> llama.LlamaConfig:
  if found.get('model_type') != 'llama':
    raise ValueError(f'{path}: model_type is {found.get("model_type")!r}, not llama')
  fields = select(found, used=USED, fixed=FIXED, harmless=HARMLESS, source=path)
  rope = fields.pop('rope_parameters', {})
  if not isinstance(rope, dict):
    raise ValueError(f'{path}: rope_parameters = {rope!r:.60} is not an object')
  rope = select(
    rope, used={'rope_theta': 'rope_theta'}, fixed=FIXED_ROPE, harmless=(), source=path
  )
  if fields.get('rope_theta') not in (None, rope.get('rope_theta')) and rope:
    raise ValueError(f'{path}: rope_theta and rope_parameters disagree')
  return build_llama(DEFAULTS | fields | rope, source=path)


def describe_llama(config: llama.LlamaConfig, dtype: str) -> dict[str, Any]:
  """What `config.json` says, to Transformers before and since version 5."""
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
  """Writes what `open_llama` reads."""
  safetensors.write(folder, tensors)
  text = json.dumps(describe_llama(config, dtype), indent=2)
  (folder / CONFIG).write_text(text + '\n')
