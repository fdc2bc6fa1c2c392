# SPDX-License-Identifier: Apache-2.0
"""Provenance of a folder of targets: one LLM, template, decoding config and corpus."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acl_jax.runtime.differences import find_differences, shorten
from acl_jax.runtime.files import write_atomically
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.fingerprint import fingerprint

PROVENANCE_FILE = 'provenance.json'
SCHEMA_VERSION = 3


def read_provenance(folder: Path) -> dict[str, Any]:
  """Read what the targets in `folder` were made with and from."""
  path = folder / PROVENANCE_FILE
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
      f'{path}: schema_version is {version!r}; this program reads {SCHEMA_VERSION};'
      ' run decode_targets again'
    )
  return provenance


def claim_folder(folder: Path, provenance: Mapping[str, Any]) -> None:
  """Write the provenance to `folder`; ValueError if it holds a different one."""
  if (folder / PROVENANCE_FILE).exists():
    hint = 'choose another folder, or delete this one'
    return check_same_provenance(folder, read_provenance(folder), provenance, hint)
  folder.mkdir(parents=True, exist_ok=True)
  write_atomically(folder / PROVENANCE_FILE, json.dumps(provenance, indent=2) + '\n')


def check_same_provenance(
  folder: Path, stored: Mapping, expected: Mapping, hint: str
) -> None:
  """Raise ValueError unless the stored provenance has every expected value."""
  for name, actual, value in find_differences(stored, expected, ignore_extra=True):
    raise ValueError(
      f'{folder}: the targets have {name} {shorten(actual)}, not {shorten(value)};'
      f' {hint}'
    )


def describe_template(text: TextFrontend) -> dict[str, str]:
  """Return the template's name and a checksum of its output for a probe.

  Two versions of a template may have the same name.
  """
  output = json.dumps(text.prompt('probe')).encode()
  return {'name': text.template.__name__, 'sha256': fingerprint([output])}
