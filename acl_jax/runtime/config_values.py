# SPDX-License-Identifier: Apache-2.0
"""Keys of a config that arguments set: from text to the value of the field's type."""

import ast
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Union

from absl import flags
from ml_collections import ConfigDict

_NAME = 'config'
_TYPE_NAMES = {
  int: 'an integer',
  float: 'a number',
  bool: 'true or false',
  tuple: 'a tuple such as (1, 2)',
  dict: "a section such as {'key': 1}",
  type(None): 'none',
}


class Override(NamedTuple):
  """A key in the arguments and its text; None without one, as of --config.KEY."""

  key: str
  value: str | None
  is_negated: bool


def set_key(config: ConfigDict, override: Override, kinds: Sequence[Any]) -> None:
  """Set a key to the value that a text describes; ValueError if it cannot be."""
  *parents, name = override.key.split('.')
  node, where = config, _NAME
  for parent in parents:
    _check_key(node, parent, where, kinds)
    node, where = node.get(parent), f'{where}.{parent}'
    kinds = _field_types(kinds, parent)
    if not isinstance(node, ConfigDict):
      raise ValueError(
        f'{_NAME}.{override.key} cannot be set: {where} is {node!r}, not a section'
      )
  _check_key(node, name, where, kinds)
  value = _convert(override, node.get(name), _field_types(kinds, name))
  with config.unlocked(), config.ignore_type():
    node[name] = value


def _check_key(node: ConfigDict, name: str, where: str, kinds: Sequence[Any]) -> None:
  """Raise ValueError, with the nearest name, for a key that a section does not have."""
  known = [*node.keys()]
  for kind in kinds:
    known += getattr(kind, '__dataclass_fields__', {})
  if name not in known:
    near = difflib.get_close_matches(name, known, n=1)
    names = ', '.join(dict.fromkeys(known))
    hint = f'did you mean {near[0]}?' if near else f'known: {names}'
    raise ValueError(f'{where}.{name} is not a key; {hint}')


def _field_types(kinds: Sequence[Any], name: str) -> list[Any]:
  """Return the types that a field of some dataclasses may have."""
  found: list[Any] = []
  for kind in kinds:
    if name in getattr(kind, '__dataclass_fields__', {}):
      hint = typing.get_type_hints(kind)[name]
      is_union = typing.get_origin(hint) in (Union, types.UnionType)
      found += typing.get_args(hint) if is_union else [hint]
  return found


def _convert(override: Override, current: Any, hints: Sequence[Any]) -> Any:
  """Return the value that a text describes."""
  text, kinds = override.value, [*map(_plain_type, hints)]
  if not kinds and current is not None:
    kinds = [_plain_type(type(current))]
  if text is None:
    if kinds and bool not in kinds:
      raise ValueError(f'--config.{override.key} has no value')
    return not override.is_negated
  if text.lower() == 'none' and (not hints or type(None) in kinds):
    return None
  if not kinds:
    return _literal(text)
  for kind in kinds:
    try:
      return _READERS[kind](text)
    except (ValueError, TypeError):
      continue
  names = ' or '.join(dict.fromkeys(_TYPE_NAMES.get(k, k.__name__) for k in kinds))
  raise ValueError(f'config.{override.key} = {text!r} is not {names}')


def _plain_type(hint: Any) -> type:
  """Return the type to read a text as: int, float, bool, str, tuple, dict or None."""
  origin = typing.get_origin(hint) or hint
  if origin is Literal:
    return str
  if hasattr(origin, '__dataclass_fields__') or issubclass(origin, ConfigDict):
    return dict
  return tuple if issubclass(origin, (tuple, list)) else origin


def _literal(text: str) -> Any:
  """Return the value of a literal, as Python writes it; any other text as it is."""
  try:
    return ast.literal_eval(text.capitalize() if text in ('true', 'false') else text)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text


def _read_tuple(text: str) -> Any:
  """Return a tuple; text that is none as it is, since some fields have a short form."""
  value = _literal(text)
  if isinstance(value, str):
    return value
  return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _read_section(text: str) -> ConfigDict:
  if not isinstance(value := _literal(text), dict):
    raise ValueError(text)
  return ConfigDict(value)


def _read_none(text: str) -> None:
  raise ValueError(text)


_READERS: dict[Any, Any] = {
  bool: flags.BooleanParser().parse,
  int: lambda text: int(text, 0),
  float: float,
  str: str,
  tuple: _read_tuple,
  dict: _read_section,
  type(None): _read_none,
}
