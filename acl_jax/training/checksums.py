# SPDX-License-Identifier: Apache-2.0
"""The manifest of a folder: metadata of its creator and the sha256 of every file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import sha256

MANIFEST_NAME = 'note.json'

Metadata = dict[str, Any]


class DamagedError(ValueError):
  """The files are not those that the manifest lists."""


def write_manifest(folder: Path, metadata: Metadata, exclude: str = '') -> None:
  """Write the manifest of a folder.

  metadata: serialisable as JSON. exclude: a file that is left out, as it may change.
  """
  checksums = _checksums(folder)
  checksums.pop(exclude, None)
  content = {'note': metadata, 'files': checksums}
  text = json.dumps({**content, 'sha256': _digest(content)}, indent=1)
  (folder / MANIFEST_NAME).write_text(text + '\n')


def read_manifest(folder: Path) -> Metadata:
  """Return the metadata; DamagedError if the manifest or a listed file has changed."""
  try:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    digest, checksums = content.pop('sha256'), content['files']
    metadata = content['note']
  except FileNotFoundError:
    raise DamagedError(f'{MANIFEST_NAME} is missing') from None
  except (OSError, ValueError, KeyError, AttributeError, TypeError):
    raise DamagedError(f'{MANIFEST_NAME} cannot be read') from None
  if digest != _digest(content):
    raise DamagedError(f'{MANIFEST_NAME} has changed since it was saved')
  for name, checksum in checksums.items():
    path = folder / name
    if not path.is_file():
      raise DamagedError(f'file {name} is missing')
    if sha256(path) != checksum:
      raise DamagedError(f'file {name} has changed since it was saved')
  return metadata


def _checksums(folder: Path) -> dict[str, str]:
  files = (path for path in sorted(folder.rglob('*')) if path.is_file())
  return {str(path.relative_to(folder)): sha256(path) for path in files}


def _digest(content: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
