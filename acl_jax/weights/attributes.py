# SPDX-License-Identifier: Apache-2.0
"""Foreign configuration attributes: used, fixed or harmless; any other is refused."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

Config = TypeVar('Config')


def select(
  attributes: Mapping[str, Any],
  *,
  used: Mapping[str, str],
  fixed: Mapping[str, Collection[Any]],
  harmless: Collection[str],
  source: pathlib.Path,
) -> dict[str, Any]:
  """The attributes in `used`, by our names, if no other could change the model.

  used: their key -> our key.
  fixed: their key -> the values under which the model is the one we compute.
  harmless: keys that do not change what is computed.
  """
  for key, value in attributes.items():
    if key in fixed:
      if value not in fixed[key]:
        raise ValueError(f'{source}: {key} = {value!r} is not supported')
    elif key not in used and key not in harmless:
      raise ValueError(
        f'{source}: unknown attribute {key} = {value!r:.60}; it may change the model'
      )
  return {ours: attributes[key] for key, ours in used.items() if key in attributes}


def build(
  cls: type[Config], fields: Mapping[str, Any], *, source: pathlib.Path
) -> Config:
  """A configuration dataclass from the fields found in `source`."""
  names = {field.name for field in dataclasses.fields(cls)}
  if missing := sorted(names - fields.keys()):
    raise ValueError(f'{source}: {missing[0]} is missing')
  try:
    return cls(**fields)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
