# SPDX-License-Identifier: Apache-2.0
"""Translates the `config.json` of Llama and its siblings, in both directions.

Transformers has one class for each family; here they are options of one model.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acl_jax.models import llama
from acl_jax.weights.configuration import make_llama_config, select_attributes
from acl_jax.weights.harmless import is_harmless
from acl_jax.weights.llama_families import FAMILIES
from acl_jax.weights.rope_config import ROPE_KEYS, describe_rope, parse_rope

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
LAYER_KEYS = (
  'layer_types',
  'max_window_layers',
  'no_rope_layer_interval',
  'no_rope_layers',
  'sliding_window',
  'use_sliding_window',
)
FULL, SLIDING = 'full_attention', 'sliding_attention'
MAX_LAYERS = 10_000  # far above any model; lists are made of them


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
  layers = _parse_layers(config, fields, path)
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


def _parse_layers(
  config: Mapping[str, Any], fields: Mapping[str, Any], path: Path
) -> dict[str, Any]:
  """Return which layers have no rotation, and which a sliding window."""
  family, count = config['model_type'], fields.get('num_hidden_layers')
  if not isinstance(count, int) or not 0 < count <= MAX_LAYERS:
    raise ValueError(
      f'{path}: num_hidden_layers = {count!r:.60} is not between 1 and {MAX_LAYERS}'
    )
  may_have, rotates = FAMILIES[family].may_have, [True] * count
  if 'no_rope_layers' in may_have:
    rotates = _rotating_layers(fields, count, path)
  window = config.get('sliding_window', 4_096 if family == 'mistral' else None)
  if 'full_attention_layers' in may_have and 'sliding_window' not in config:
    window = None if family == 'smollm3' else 4_096
  if family != 'mistral' and not fields.get('use_sliding_window', False):
    if family == 'llama' and window is not None:
      raise ValueError(f'{path}: sliding_window = {window!r:.60} is not of a llama')
    window = None
  if window is not None and type(window) is not int:
    raise ValueError(f'{path}: sliding_window = {window!r:.60} is not a number')
  slides = [window is not None] * count
  if family == 'smollm3':
    slides = [window is not None and not rotate for rotate in rotates]
  elif family.startswith('qwen'):
    first = fields.get('max_window_layers', 28)
    if not isinstance(first, int):
      raise ValueError(f'{path}: max_window_layers = {first!r:.60} is not a number')
    slides = [window is not None and i >= first for i in range(count)]
  slides = _check_layer_types(fields, slides, window, family, path)
  return {
    'no_rope_layers': tuple(i for i, rotate in enumerate(rotates) if not rotate),
    'sliding_window': window if any(slides) else None,
    'full_attention_layers': tuple(i for i, s in enumerate(slides) if not s)
    if any(slides)
    else (),
  }


def _rotating_layers(fields: Mapping[str, Any], count: int, path: Path) -> list[bool]:
  """Return for each layer of a SmolLM3 whether it rotates."""
  interval = fields.get('no_rope_layer_interval', 4)
  rotates = fields.get('no_rope_layers')
  if rotates is None:
    if not isinstance(interval, int) or interval < 1:
      raise ValueError(f'{path}: no_rope_layer_interval = {interval!r:.60} is below 1')
    return [(i + 1) % interval != 0 for i in range(count)]
  if not isinstance(rotates, list) or len(rotates) < count:
    raise ValueError(f'{path}: no_rope_layers is not a list of {count} numbers')
  if any(value not in (0, 1) for value in rotates):
    raise ValueError(f'{path}: no_rope_layers has values that are neither 0 nor 1')
  return [value == 1 for value in rotates[:count]]


def _check_layer_types(
  fields: Mapping[str, Any], slides: list[bool], window: Any, family: str, path: Path
) -> list[bool]:
  """Return which layers slide by `layer_types`, which must not contradict the rest."""
  types = fields.get('layer_types')
  if types is None:
    return slides
  if not isinstance(types, list) or len(types) != len(slides):
    raise ValueError(f'{path}: layer_types is not a list of {len(slides)} names')
  for name in types:
    if name not in (FULL, SLIDING):
      raise ValueError(
        f'{path}: layer_types has {name!r:.60}; known: {FULL}, {SLIDING}'
      )
  named = [name == SLIDING for name in types]
  chosen_by_types = 'full_attention_layers' in FAMILIES[family].may_have
  if (any(named) and window is None) or (not chosen_by_types and named != slides):
    raise ValueError(
      f'{path}: layer_types and sliding_window = {window!r:.60} contradict each other'
    )
  return named


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
    **_describe_layers(config),
    **describe_rope(config.rope_theta, config.rope_scaling),
    'torch_dtype': dtype,
  }


def _describe_layers(config: llama.LlamaConfig) -> dict[str, Any]:
  may_have, window = FAMILIES[config.model_type].may_have, config.sliding_window
  layers = range(config.num_hidden_layers)
  described: dict[str, Any] = {}
  if 'no_rope_layers' in may_have:
    rotates = [int(layer not in config.no_rope_layers) for layer in layers]
    described['no_rope_layers'] = rotates
  if 'sliding_window' in may_have:
    described['sliding_window'] = window
  if 'full_attention_layers' in may_have:
    is_full = [window is None or i in config.full_attention_layers for i in layers]
    described['use_sliding_window'] = window is not None
    described['layer_types'] = [FULL if full else SLIDING for full in is_full]
  return described
