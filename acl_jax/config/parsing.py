# SPDX-License-Identifier: Apache-2.0
"""Strict parsing of nested mappings into frozen dataclasses.

All keys of a section must be present and no others, and every value must have the type
of its field. ValueErrors contain the path of the key.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

Section = TypeVar('Section')


def parse(section: type[Section], value: Any, path: str = 'config') -> Section:
  """Build a dataclass from a mapping.

  Fields with a default may be missing. In a union of dataclasses the key `kind`, which
  is a `Literal` in each of them, selects one.
  """
  if not isinstance(value, Mapping):
    raise ValueError(f'{path} = {_shown(value)} is not a section of keys')
  fields = {field.name: field for field in dataclasses.fields(section)}  # type: ignore[arg-type]
  for key in value:
    if key not in fields:
      close = difflib.get_close_matches(str(key), fields, n=1)
      hint = f'did you mean {close[0]}?' if close else f'known: {", ".join(fields)}'
      raise ValueError(f'{path}.{key} is not a key; {hint}')
  hints = typing.get_type_hints(section)
  values = {}
  for name, field in fields.items():
    if name in value:
      values[name] = _convert(hints[name], value[name], f'{path}.{name}')
    elif _is_required(field):
      raise ValueError(f'{path}.{name} is missing')
  try:
    return section(**values)
  except ValueError as error:  # a check of the dataclass itself
    if str(error).startswith('config.'):
      raise
    raise ValueError(f'{path}: {error}') from error


def _is_required(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is missing and field.default_factory is missing


def _convert(kind: Any, value: Any, path: str) -> Any:
  """Check one value and parse the sections in it."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin in (Union, types.UnionType):
    return _convert_union(arguments, value, path)
  if origin is Literal:
    if value not in arguments:
      known = ', '.join(map(str, arguments))
      raise ValueError(f'{path} is {_shown(value)}; known: {known}')
    return value
  if origin is tuple:
    return _convert_tuple(arguments, value, path)
  if dataclasses.is_dataclass(kind):
    return parse(typing.cast(type, kind), value, path)
  if kind is float and type(value) is int:
    return float(value)
  if type(value) is not kind:
    raise ValueError(f'{path} = {_shown(value)} is not {_name(kind)}')
  return value


def _convert_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
  if value is None and type(None) in kinds:
    return None
  kinds = tuple(kind for kind in kinds if kind is not type(None))
  if len(kinds) == 1:
    return _convert(kinds[0], value, path)
  if not isinstance(value, Mapping):
    raise ValueError(f'{path} = {_shown(value)} is not a section of keys')
  by_kind = {typing.get_args(typing.get_type_hints(k)['kind'])[0]: k for k in kinds}
  if (chosen := value.get('kind')) not in by_kind:
    known = ', '.join(sorted(by_kind))
    raise ValueError(f'{path}.kind is {_shown(chosen)}; known: {known}')
  return parse(by_kind[chosen], value, path)


def _convert_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
  if not isinstance(value, (tuple, list)):
    raise ValueError(f'{path} = {_shown(value)} is not a tuple')
  if len(kinds) == 2 and kinds[1] is Ellipsis:
    kinds = (kinds[0],) * len(value)
  if len(kinds) != len(value):
    raise ValueError(f'{path} = {_shown(value)} should have {len(kinds)} elements')
  return tuple(
    _convert(kind, element, f'{path}[{i}]')
    for i, (kind, element) in enumerate(zip(kinds, value, strict=True))
  )


def _name(kind: Any) -> str:
  names = {int: 'an integer', float: 'a number', str: 'a string', bool: 'True or False'}
  return names.get(kind, getattr(kind, '__name__', str(kind)))


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f'{text[:80]}…'
