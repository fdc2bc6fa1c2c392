# SPDX-License-Identifier: Apache-2.0
"""Foreign configuration attributes: used, fixed or harmless; any other is refused."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from acl_jax.models import llama


def select(
  attributes: Mapping[str, Any],
  *,
  used: Mapping[str, str],
  fixed: Mapping[str, Collection[Any]],
  harmless: Collection[str],
  source: Path,
) -> dict[str, Any]:
  """The attributes in `used`, by our names, if no other could change the model.

  used: their key -> our key; a null counts as left out.
  fixed: their key -> the values under which the model is the one we compute.
  harmless: keys that do not change what is computed.
  """
  for key, value in attributes.items():
    if key in fixed:
      if value not in fixed[key]:
        raise ValueError(f'{source}: {key} = {value!r:.60} is not supported')
    elif key not in used and key not in harmless:
      raise ValueError(
        f'{source}: unknown attribute {key} = {value!r:.60}, which may change the model'
      )
  return {
    ours: attributes[key]
    for key, ours in used.items()
    if attributes.get(key) is not None
  }


def build_llama(fields: Mapping[str, Any], *, source: Path) -> llama.LlamaConfig:
  """The configuration of a Llama; heads need not be said twice to be alike."""
  heads, width = fields.get('num_attention_heads'), fields.get('hidden_size')
  if isinstance(heads, int) and isinstance(width, int) and heads > 0:
    fields = {'num_key_value_heads': heads, 'head_dim': width // heads, **fields}
  for name in get_type_hints(llama.LlamaConfig):
    if fields.get(name) is None:
      raise ValueError(f'{source}: nothing says what {name} is')
  try:
    return llama.LlamaConfig(**typed(fields, llama.LlamaConfig, source=source))
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error


def typed(fields: Mapping[str, Any], config: type, *, source: Path) -> dict[str, Any]:
  """The fields of a configuration class, each of the type that it asks for."""
  found: dict[str, Any] = {}
  for name, kind in get_type_hints(config).items():
    if name not in fields:
      continue
    value = fields[name]
    if kind is float and isinstance(value, int) and abs(value) < 1 << 53:
      value = float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
      raise ValueError(f'{source}: {name} = {value!r:.60} is no {kind.__name__}')
    found[name] = value
  return found


def sizes(config: llama.LlamaConfig) -> dict[str, int]:
  """The letters of a name table; i pairs of rows are rotated per head, c in a pair."""
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
