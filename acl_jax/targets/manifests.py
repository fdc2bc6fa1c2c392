# SPDX-License-Identifier: Apache-2.0
"""The manifest of a shard of responses: its checksum, and what its records are."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.container import RecordError

COLUMNS = {'ids': str, 'tokens': int, 'flags': str, 'instructions': int}


def manifest_path(shard: Path) -> Path:
  """Return the path of a shard's manifest."""
  return shard.with_suffix('.json')


def read_manifest(path: Path) -> dict[str, Any]:
  """Read and validate a shard's manifest."""
  try:
    manifest = json.loads(path.read_text())
    lengths = {len(manifest[name]) for name in COLUMNS}
    typed = [type(x) is kind for name, kind in COLUMNS.items() for x in manifest[name]]
    typed += [isinstance(manifest['bytes'], int), isinstance(manifest['sha256'], str)]
    typed += [isinstance(manifest['skipped'], list)]
    if len(lengths) != 1 or not all(typed):
      raise ValueError('wrong types, or columns of different lengths')
  except FileNotFoundError:
    raise RecordError(
      f'{path}: not found; the targets are incomplete: run decode_targets again'
    ) from None
  except (ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None
  return manifest
