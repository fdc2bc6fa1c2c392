# SPDX-License-Identifier: Apache-2.0
"""Translates the rotary positions of a `config.json` of Hugging Face.

Transformers 4 writes `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`; files
may have both, which must then agree.
"""

from collections.abc import Mapping
from typing import Any

from acl_jax.models.rope import FIELDS, RopeScaling

ORIGINAL = 'original_max_position_embeddings'
ROPE_KEYS = ('rope_parameters', 'rope_scaling', ORIGINAL)
_NAMES = {'su': 'longrope'}  # of old files


def parse_rope(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Return `rope_theta`, if it is given, and `rope_scaling`.

  Raises ValueError for parameters that are unknown or contradict each other.
  """
  sections = [_section(key, fields[key]) for key in ROPE_KEYS[:2] if fields.get(key)]
  thetas = [fields.get('rope_theta'), *(s.pop('rope_theta', None) for s in sections)]
  thetas = [theta for theta in thetas if theta is not None]
  if any(theta != thetas[0] for theta in thetas):
    raise ValueError(f'rope_theta and rope_parameters disagree: {thetas!r:.60}')
  if any(section != sections[0] for section in sections):
    raise ValueError('rope_scaling and rope_parameters disagree')
  values: dict[str, Any] = sections[0] if sections else {'rope_type': 'default'}
  kind = values.pop('rope_type')
  if kind in FIELDS and (original := fields.get(ORIGINAL)) is not None:
    if values.setdefault(ORIGINAL, original) != original:
      raise ValueError(f'{ORIGINAL} and that of rope_scaling disagree')
  theta = {'rope_theta': thetas[0]} if thetas else {}
  if kind == 'default':
    if values:
      raise ValueError(f'{next(iter(values))} has no meaning for the rope_type default')
    return theta | {'rope_scaling': None}
  return theta | {'rope_scaling': RopeScaling(kind, **values)}


def _section(key: str, section: Any) -> dict[str, Any]:
  """Return the parameters that a section gives, by our names."""
  if not isinstance(section, Mapping):
    raise ValueError(f'{key} = {section!r:.60} is not a JSON object')
  values = {name: value for name, value in section.items() if value is not None}
  kinds = [values.pop(name) for name in ('rope_type', 'type') if name in values]
  if any(kind != kinds[0] for kind in kinds):
    raise ValueError(f'rope_type and type of {key} disagree: {kinds!r:.60}')
  if values.pop('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(f'partial_rotary_factor of {key} is not supported')
  known = {'rope_theta', *RopeScaling.__dataclass_fields__} - {'kind'}
  if unknown := sorted(values.keys() - known):
    name = unknown[0]
    raise ValueError(f'{key} has an unknown {name} = {values[name]!r:.60}')
  kind = kinds[0] if kinds else 'default'
  if not isinstance(kind, str):
    raise ValueError(f'rope_type = {kind!r:.60} of {key} is not a name')
  kind = _NAMES.get(kind, kind)
  return {'rope_type': kind} | {k: _typed(k, v) for k, v in values.items()}


def _typed(name: str, value: Any) -> Any:
  """Return a value with the type that `RopeScaling` declares; else ValueError."""
  is_number = type(value) is int and abs(value) < 1 << 53
  if name == 'truncate':
    valid = isinstance(value, bool)
  elif name == ORIGINAL:
    valid = is_number
  elif name in ('short_factor', 'long_factor'):
    if isinstance(value, list):
      return tuple(_typed(f'a number of {name}', each) for each in value)
    valid = False
  else:
    valid = is_number or isinstance(value, float)
    value = float(value) if is_number else value
  if not valid:
    raise ValueError(f'{name} = {value!r:.60} of the rope parameters is not supported')
  return value


def describe_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
  """Return the keys of a `config.json`, for Transformers 4 and 5."""
  if scaling is None:
    return {'rope_parameters': {'rope_type': 'default', 'rope_theta': theta}}
  values = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in scaling.fields.items()
  }
  section = {'rope_type': scaling.kind, **values}
  return {
    'rope_parameters': section | {'rope_theta': theta},
    'rope_scaling': section,
  }
