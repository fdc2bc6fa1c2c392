# SPDX-License-Identifier: Apache-2.0
"""Reads a Llama or one of its siblings from a GGUF file: config and name table.

The architectures and the defaults of their keys are those of llama.cpp:
https://github.com/ggml-org/llama.cpp/tree/master/src/models
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.models import llama
from acl_jax.weights.configuration import make_llama_config, select_attributes
from acl_jax.weights.gguf_file import read
from acl_jax.weights.gguf_rope import ROPE_FACTORS, SCALING_FIELDS, read_rope_scaling
from acl_jax.weights.tensor import Tensor


class Architecture(NamedTuple):
  """How the models of one `general.architecture` differ from Llama.

  interleaved: whether RoPE rotates rows (2i, 2i + 1) of q and k in the file instead of
    rows (i, i + h/2).
  rope_period: every layer of this number has no rotation; 0 if all have one.
  """

  model_type: str
  interleaved: bool = True
  rope_period: int = 0
  attention_bias: bool = False
  qk_norm: bool = False


ARCHITECTURES = {
  'llama': Architecture('llama'),
  'mistral3': Architecture('mistral'),
  'qwen2': Architecture('qwen2', interleaved=False, attention_bias=True),
  'qwen3': Architecture('qwen3', interleaved=False, qk_norm=True),
  'smollm3': Architecture('smollm3', rope_period=4),
}
NOT_INTERLEAVED = {a.model_type for a in ARCHITECTURES.values() if not a.interleaved}

# Of Llama: RoPE rotates i pairs of c = 2 rows per head.
LLAMA = (
  ('token_embd.weight', 'embed_tokens', 'v d -> v d'),
  ('blk.{}.attn_norm.weight', 'layers/input_layernorm', 'd -> d'),
  ('blk.{}.attn_q.weight', 'layers/self_attn/q_proj', '(n i c) d -> d n (c i)'),
  ('blk.{}.attn_k.weight', 'layers/self_attn/k_proj', '(k i c) d -> d k (c i)'),
  ('blk.{}.attn_v.weight', 'layers/self_attn/v_proj', '(k h) d -> d k h'),
  ('blk.{}.attn_output.weight', 'layers/self_attn/o_proj', 'd (n h) -> n h d'),
  ('blk.{}.ffn_norm.weight', 'layers/post_attention_layernorm', 'd -> d'),
  ('blk.{}.ffn_gate.weight', 'layers/mlp/gate_proj', 'f d -> d f'),
  ('blk.{}.ffn_up.weight', 'layers/mlp/up_proj', 'f d -> d f'),
  ('blk.{}.ffn_down.weight', 'layers/mlp/down_proj', 'd f -> f d'),
  ('output_norm.weight', 'norm', 'd -> d'),
  ('output.weight', 'lm_head', 'v d -> d v'),
  ('blk.{}.attn_q.bias', 'layers/self_attn/q_bias', '(n h) -> n h'),
  ('blk.{}.attn_k.bias', 'layers/self_attn/k_bias', '(k h) -> k h'),
  ('blk.{}.attn_v.bias', 'layers/self_attn/v_bias', '(k h) -> k h'),
  ('blk.{}.attn_q_norm.weight', 'layers/self_attn/q_norm', 'h -> h'),
  ('blk.{}.attn_k_norm.weight', 'layers/self_attn/k_norm', 'h -> h'),
)

FIELD_NAMES = {
  'block_count': 'num_hidden_layers',
  'context_length': 'max_position_embeddings',
  'embedding_length': 'hidden_size',
  'feed_forward_length': 'intermediate_size',
  'vocab_size': 'vocab_size',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'attention.value_length': 'value_length',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'rope.freq_base': 'rope_theta',
  'rope.dimension_count': 'rope_dimension_count',
}
WINDOW = 'attention.sliding_window'
SUPPORTED_VALUES = {
  'attention.causal': (True,),
  'expert_count': (0,),
  'expert_used_count': (0,),
  'rope.scaling.attn_factor': (1.0,),
  'rope.scaling.yarn_attn_factor': (1.0,),
  'rope.scaling.yarn_ext_factor': (1.0,),
  'use_parallel_residual': (False,),
}
IGNORED = ('tensor_data_layout', 'rope.scaling.finetuned')


def llama_rows(config: llama.LlamaConfig) -> tuple[tuple[str, str, str], ...]:
  """Return the name table of a family; its models need not have every row."""
  if config.model_type not in NOT_INTERLEAVED:
    return LLAMA
  return tuple(
    (name, path, layout.replace(' i c)', ' h)').replace('(c i)', 'h'))
    for name, path, layout in LLAMA
  )


def read_llama(path: Path) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """Return the configuration and the tensors of a Llama; tensors are not read yet."""
  return parse_llama(*read(path), path)


def parse_llama(
  metadata: Mapping[str, Any], tensors: dict[str, Tensor], path: Path
) -> tuple[llama.LlamaConfig, dict[str, Tensor]]:
  """As `read_llama`, of what the file `path` holds."""
  name = metadata.get('general.architecture')
  if not isinstance(name, str) or name not in ARCHITECTURES:
    raise ValueError(
      f'{path}: general.architecture is {name!r:.60}; supported are dense models of'
      f' text: {", ".join(ARCHITECTURES)}'
    )
  attributes = {
    key.removeprefix(f'{name}.'): value
    for key, value in metadata.items()
    if key.startswith(f'{name}.')
  }
  config = _make_config(attributes, ARCHITECTURES[name], tensors, path)
  tensors.pop(ROPE_FACTORS, None)
  return config, tensors


def _make_config(
  attributes: Mapping[str, Any],
  architecture: Architecture,
  tensors: Mapping[str, Tensor],
  path: Path,
) -> llama.LlamaConfig:
  windowed = architecture.model_type in ('llama', 'mistral')
  fields = select_attributes(
    attributes,
    field_names=FIELD_NAMES | SCALING_FIELDS | ({WINDOW: WINDOW} if windowed else {}),
    supported_values=SUPPORTED_VALUES | ({} if windowed else {WINDOW: (0,)}),
    ignored=IGNORED,
    source=path,
  )
  fields.setdefault('rope_theta', 10_000.0)  # the default of llama.cpp
  if (embedding := tensors.get('token_embd.weight')) and embedding.shape:
    fields.setdefault('vocab_size', embedding.shape[0])
  fields['tie_word_embeddings'] = 'output.weight' not in tensors
  # Ours has one head size.
  head_sizes = {
    key: fields.pop(key, None) for key in ('value_length', 'rope_dimension_count')
  }
  scaling = {key: fields.pop(key, None) for key in SCALING_FIELDS.values()}
  try:
    fields |= _options(fields, architecture, len(tensors))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None
  config = make_llama_config(fields, source=path)
  for key, value in head_sizes.items():
    if value not in (None, config.head_dim):
      raise ValueError(f'{path}: {key} = {value!r}; head_dim is {config.head_dim}')
  return read_rope_scaling(config, scaling, tensors.get(ROPE_FACTORS), path)


def _options(
  fields: dict[str, Any], architecture: Architecture, num_tensors: int
) -> dict[str, Any]:
  """Return what sets an architecture apart; takes the sliding window from `fields`."""
  period, layers = architecture.rope_period, fields.get('num_hidden_layers')
  if not period or not isinstance(layers, int):
    layers = 0
  window = fields.pop(WINDOW, 0) or None  # 0 if there is none
  if not isinstance(window, int | None):
    raise ValueError(f'{WINDOW} = {window!r:.60} is not a number of positions')
  model_type = architecture.model_type
  return {
    'model_type': 'mistral' if window else model_type,
    'attention_bias': architecture.attention_bias,
    'qk_norm': architecture.qk_norm,
    'sliding_window': window,
    'no_rope_layers': tuple(
      range(period - 1, min(layers, num_tensors), period) if period else ()
    ),
  }
