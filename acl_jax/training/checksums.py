# SPDX-License-Identifier: Apache-2.0
"""The note in a folder of files: what their maker says of them, and their sha256."""

import hashlib
import json
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import sha256

NAME = 'note.json'

Manifest = dict[str, Any]


class DamagedError(ValueError):
  """The files are not those of the note."""


def write_manifest(folder: Path, note: Manifest, but: str = '') -> None:
  """Notes the files as they are now, all but one; `note` is what JSON can say."""
  files = {name: sum for name, sum in _checksums(folder).items() if name != but}
  whole = {'note': note, 'files': files}
  text = json.dumps({**whole, 'sha256': _digest(whole)}, indent=1)
  (folder / NAME).write_text(text + '\n')


def read_manifest(folder: Path) -> Manifest:
  """The note; `Damaged` if it, or any file that it lists, is not as it was written."""
  try:
    whole = json.loads((folder / NAME).read_text())
    sum, files, note = whole.pop('sha256'), whole['files'], whole['note']
  except FileNotFoundError:
    raise DamagedError(f'{NAME} is missing') from None
  except (OSError, ValueError, KeyError, AttributeError, TypeError):
    raise DamagedError(f'{NAME} cannot be read') from None
  if sum != _digest(whole):
    raise DamagedError(f'{NAME} has changed since it was saved')
  for name, checksum in files.items():
    path = folder / name
    if not path.is_file():
      raise DamagedError(f'file {name} is missing')
    if sha256(path) != checksum:
      raise DamagedError(f'file {name} has changed since it was saved')
  return note


def _checksums(folder: Path) -> dict[str, str]:
  files = (path for path in sorted(folder.rglob('*')) if path.is_file())
  return {str(path.relative_to(folder)): sha256(path) for path in files}


def _digest(whole: Manifest) -> str:
  return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
