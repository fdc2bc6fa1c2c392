# SPDX-License-Identifier: Apache-2.0
"""Translates the `config.json` of Llama and its siblings, in both directions.

Transformers has one class for each family; here they are options of one model.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.models import llama
from acl_jax.weights.configuration import make_llama_config, select_attributes
from acl_jax.weights.harmless import is_harmless
from acl_jax.weights.layer_config import LAYER_KEYS, describe_layers, parse_layers
from acl_jax.weights.rope_config import ROPE_KEYS, describe_rope, parse_rope


class Family(NamedTuple):
  """A family of models in Transformers.

  defaults: of its config class. constants: fields of ours that all its models share.
  written: keys that its config class has, at the only value that we write. may_have:
  fields of ours that its config can express beyond the sizes.
  """

  architecture: str
  defaults: dict[str, Any]
  constants: dict[str, Any] = {}
  written: dict[str, Any] = {}
  may_have: tuple[str, ...] = ()


_DEFAULTS = {'rms_norm_eps': 1e-6, 'rope_theta': 10_000.0, 'tie_word_embeddings': False}
_QWEN = {'max_position_embeddings': 32_768, 'num_key_value_heads': 32} | _DEFAULTS
_NO_BIAS = {'attention_bias': False, 'mlp_bias': False}
_WINDOWS = ('sliding_window', 'full_attention_layers')
FAMILIES = {
  'llama': Family(
    'LlamaForCausalLM',
    {'max_position_embeddings': 2_048} | _DEFAULTS,
    written=_NO_BIAS,
  ),
  'mistral': Family(
    'MistralForCausalLM',
    {'max_position_embeddings': 131_072, 'num_key_value_heads': 8} | _DEFAULTS,
    may_have=('sliding_window',),
  ),
  'qwen2': Family(
    'Qwen2ForCausalLM', _QWEN, constants={'attention_bias': True}, may_have=_WINDOWS
  ),
  'qwen3': Family(
    'Qwen3ForCausalLM',
    _QWEN | {'head_dim': 128},
    constants={'qk_norm': True},
    written={'attention_bias': False},
    may_have=_WINDOWS,
  ),
  'smollm3': Family(
    'SmolLM3ForCausalLM',
    {
      'max_position_embeddings': 32_768,
      'num_key_value_heads': 4,
      'rms_norm_eps': 1e-6,
      'rope_theta': 2e6,
      'tie_word_embeddings': True,
    },
    written=_NO_BIAS | {'pad_token_id': None},  # its default is for one vocabulary
    may_have=('no_rope_layers', *_WINDOWS),
  ),
}
SIZES = tuple(
  field.name
  for field in dataclasses.fields(llama.LlamaConfig)
  if field.default is dataclasses.MISSING
)
SUPPORTED_VALUES = {
  'attention_bias': (False,),
  'hidden_act': ('silu',),
  'mlp_bias': (False,),
  'model_type': tuple(FAMILIES),
  'partial_rotary_factor': (1.0, None),
  'rope_interleaved': (False,),
  'use_mrope': (False,),
}
# What makes another model of it, and what that is.
REFUSED = {
  'attn_logit_softcapping': 'soft-capped attention scores',
  'compression_config': 'quantised weights',
  'final_logit_softcapping': 'soft-capped logits',
  'logit_softcapping': 'soft-capped logits',
  'n_routed_experts': 'a mixture of experts',
  'num_experts': 'a mixture of experts',
  'num_local_experts': 'a mixture of experts',
  'quantization_config': 'quantised weights',
  'vision_config': 'a vision model',
}


def parse_llama_config(config: Mapping[str, Any], path: Path) -> llama.LlamaConfig:
  """Return the configuration of a `config.json`; errors name `path` and the key."""
  _refuse_other_models(config, path)
  family = FAMILIES[config['model_type']]
  fields = select_attributes(
    config,
    field_names={name: name for name in (*SIZES, *ROPE_KEYS, *LAYER_KEYS)},
    supported_values=SUPPORTED_VALUES,
    ignored=('is_llama_config', 'pretraining_tp', *REFUSED),  # refused above if set
    source=path,
    is_harmless=is_harmless,
  )
  sizes = {name: fields[name] for name in SIZES if name in fields}
  defaults = dict(family.defaults)
  if config.get('num_key_value_heads', ...) is None:  # as many as heads
    defaults.pop('num_key_value_heads', None)
  layers = parse_layers(config, fields, family.may_have, path)
  try:
    rope = parse_rope(fields)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  model_type = {'model_type': config['model_type']}
  values = defaults | sizes | rope | layers | family.constants | model_type
  return make_llama_config(values, source=path)


def _refuse_other_models(config: Mapping[str, Any], path: Path) -> None:
  """Raise ValueError for another kind of model, by the key that says so."""
  model_type = config.get('model_type')
  for key, what in REFUSED.items():
    if (value := config.get(key)) not in (None, False, 0):
      if isinstance(value, Mapping) and 'quant_method' in value:
        what = f'{what} ({value["quant_method"]!r:.20})'
      raise ValueError(
        f'{path}: {key} = {value!r:.60}: {what}, which this program cannot load'
      )
  if not isinstance(model_type, str) or model_type not in FAMILIES:
    raise ValueError(
      f'{path}: model_type is {model_type!r:.60}, not one of {", ".join(FAMILIES)}'
    )


def describe_llama(config: llama.LlamaConfig, dtype: str) -> dict[str, Any]:
  """Return the `config.json` of a model, for Transformers 4 and 5.

  Raises ValueError if the class of its family lacks what the model has.
  """
  family = FAMILIES[config.model_type]
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    expected = family.constants.get(field.name, field.default)
    free = field.name in (*SIZES, *family.may_have, 'model_type', 'rope_scaling')
    if not free and value != expected:
      raise ValueError(
        f'{field.name} = {value!r} cannot be written: {family.architecture} of'
        ' Transformers has no such option'
      )
  return {
    'architectures': [family.architecture],
    'model_type': config.model_type,
    'hidden_act': 'silu',
    **family.written,
    **{name: getattr(config, name) for name in SIZES},
    **describe_layers(config, family.may_have),
    **describe_rope(config.rope_theta, config.rope_scaling),
    'torch_dtype': dtype,
  }
