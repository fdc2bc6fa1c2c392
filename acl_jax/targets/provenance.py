# SPDX-License-Identifier: Apache-2.0
"""Where responses come from: a folder of targets is of one LLM, asked in one way."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import write_atomically
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.fingerprint import fingerprint

FILE = 'provenance.json'
SCHEMA_VERSION = 3


def read_provenance(folder: Path) -> dict[str, Any]:
  """Who made the targets in `folder`, and of what."""
  path = folder / FILE
  try:
    provenance = json.loads(path.read_text())
    version = provenance['schema_version']
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path}: not found; is this a folder of targets?'
    ) from None
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path}: cannot be read ({error!r})') from None
  if version != SCHEMA_VERSION:
    raise ValueError(
      f'{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION};'
      ' make the targets again'
    )
  return provenance


def claim_folder(folder: Path, provenance: Mapping[str, Any]) -> None:
  """Makes `folder` the place of these targets; ValueError if it is that of others."""
  if (folder / FILE).exists():
    hint = 'choose another folder, or delete this one'
    return check_same(folder, read_provenance(folder), provenance, hint)
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / FILE, json.dumps(provenance, indent=2) + '\n')


def check_same(folder: Path, there: Mapping, ours: Mapping, hint: str) -> None:
  """Refuses targets that were made in another way than ours."""
  for name, theirs, value in _differences(there, ours):
    raise ValueError(
      f'{folder}: holds targets of another {name}, {_short(theirs)}, not of'
      f' {_short(value)}; {hint}'
    )


def _differences(there: Mapping, ours: Mapping) -> Iterator[tuple[str, Any, Any]]:
  """What differs, by its name: 'decoding.seed'."""
  for key, value in ours.items():
    theirs = there.get(key)
    if isinstance(theirs, Mapping) and isinstance(value, Mapping):
      for name, *values in _differences(theirs, value):
        yield f'{key}.{name}', *values
    elif theirs != value:
      yield key, theirs, value


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 200 else f'{text[:200]}…'


def describe_template(text: TextFrontend) -> dict[str, str]:
  """Its name, and what it makes of a probe: the same name may frame differently."""
  frame = json.dumps(text.prompt('probe')).encode()
  return {'name': text.template.__name__, 'sha256': fingerprint([frame])}
