# SPDX-License-Identifier: Apache-2.0
"""Translates the configuration of another library and rejects unknown attributes.

Every attribute must be translated to one of our fields, have a supported value, or be
known not to change the model; anything else raises an error.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from acl_jax.models import llama


def select_attributes(
  attributes: Mapping[str, Any],
  *,
  field_names: Mapping[str, str],
  supported_values: Mapping[str, Collection[Any]],
  ignored: Collection[str],
  source: Path,
  is_harmless: Callable[[str, Any], bool] = lambda _key, _value: False,
) -> dict[str, Any]:
  """Return the attributes named in `field_names`, under our names.

  field_names: their key -> our key; an attribute that is null counts as absent.
  supported_values: their key -> the values for which our model computes the same.
  ignored: keys that do not affect the model.
  source: the file that errors name.
  is_harmless: whether any other attribute, by key and value, does not, either.
  Raises ValueError for an unsupported value and for any other key.
  """
  for key, value in attributes.items():
    if key in supported_values:
      if value not in supported_values[key]:
        raise ValueError(f'{source}: {key} = {value!r:.60} is not supported')
    elif not (key in field_names or key in ignored or is_harmless(key, value)):
      raise ValueError(
        f'{source}: unknown attribute {key} = {value!r:.60}; it may change the model'
      )
  return {
    field: attributes[key]
    for key, field in field_names.items()
    if attributes.get(key) is not None
  }


def make_llama_config(fields: Mapping[str, Any], *, source: Path) -> llama.LlamaConfig:
  """Return the configuration of a Llama from its fields.

  `num_key_value_heads` defaults to `num_attention_heads`, and `head_dim` to
  `hidden_size // num_attention_heads`. Raises ValueError for a missing or wrong field.
  """
  heads, width = fields.get('num_attention_heads'), fields.get('hidden_size')
  if isinstance(heads, int) and isinstance(width, int) and heads > 0:
    fields = {'num_key_value_heads': heads, 'head_dim': width // heads, **fields}
  for field in dataclasses.fields(llama.LlamaConfig):
    if field.default is dataclasses.MISSING and fields.get(field.name) is None:
      raise ValueError(f'{source}: {field.name} is missing')
  try:
    typed_fields = coerce_field_types(fields, llama.LlamaConfig, source=source)
    return llama.LlamaConfig(**typed_fields)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error


def coerce_field_types(
  fields: Mapping[str, Any], config_class: type, *, source: Path
) -> dict[str, Any]:
  """Return the fields that `config_class` has, each with the type it declares.

  Integers become floats where a float is declared; any other mismatch is a ValueError.
  """
  coerced: dict[str, Any] = {}
  for name, field_type in get_type_hints(config_class).items():
    if name not in fields:
      continue
    value = fields[name]
    if field_type is float and isinstance(value, int) and abs(value) < 1 << 53:
      value = float(value)
    if isinstance(field_type, type) and not isinstance(value, field_type):
      raise ValueError(
        f'{source}: {name} = {value!r:.60} must be of type {field_type.__name__}'
      )
    coerced[name] = value
  return coerced


def llama_axis_sizes(config: llama.LlamaConfig) -> dict[str, int]:
  """Axis sizes by letters of the `LLAMA` tables; RoPE rotates i pairs of c rows."""
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
