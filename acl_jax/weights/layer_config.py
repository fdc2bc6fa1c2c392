# SPDX-License-Identifier: Apache-2.0
"""Translates which layers of a `config.json` rotate, and which have a sliding window.

Families say it by intervals, by lists of 0 and 1, or by names of the kind of attention.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from acl_jax.models.llama_config import LlamaConfig

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


def parse_layers(
  config: Mapping[str, Any],
  fields: Mapping[str, Any],
  may_have: Collection[str],
  path: Path,
) -> dict[str, Any]:
  """Return which layers have no rotation, and which a sliding window.

  fields: the attributes of `config` that are not null. may_have: as `Family.may_have`.
  """
  family, count = config['model_type'], fields.get('num_hidden_layers')
  if not isinstance(count, int) or not 0 < count <= MAX_LAYERS:
    raise ValueError(
      f'{path}: num_hidden_layers = {count!r:.60} is not between 1 and {MAX_LAYERS}'
    )
  rotates = [True] * count
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
  by_types = 'full_attention_layers' in may_have
  slides = _check_layer_types(fields, slides, window, by_types, path)
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
  fields: Mapping[str, Any], slides: list[bool], window: Any, by_types: bool, path: Path
) -> list[bool]:
  """Return which layers slide by `layer_types`, which must not contradict the rest.

  by_types: whether the names choose the layers; else they must repeat `slides`.
  """
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
  if (any(named) and window is None) or (not by_types and named != slides):
    raise ValueError(
      f'{path}: layer_types and sliding_window = {window!r:.60} contradict each other'
    )
  return named


def describe_layers(config: LlamaConfig, may_have: Collection[str]) -> dict[str, Any]:
  """Return the keys of a `config.json` that its family may have."""
  window, layers = config.sliding_window, range(config.num_hidden_layers)
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
