# SPDX-License-Identifier: Apache-2.0
"""The index of a folder of targets: what a run must know of every response.

`responses.columns` has, in the order of the records, their lengths in tokens, flags and
instructions; and sorted hashes of the ids with the number of the record of each, so
that millions of utterances find their responses without a dictionary. It is made from
the manifests of the shards, one in memory at a time.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from acl_jax.runtime.files import sha256
from acl_jax.targets.manifests import manifest_path, read_manifest
from acl_jax.targets.provenance import PROVENANCE_FILE
from data_pipeline.column_files import open_or_make
from data_pipeline.columns import Columns
from data_pipeline.container import RecordError
from data_pipeline.id_hashes import hash_ids

FILE = 'responses.columns'
VERSION = 1
MAX_FLAGS, MAX_INSTRUCTIONS = 1 << 8, 1 << 16  # different ones


def open_index(folder: Path, shards: Sequence[Path]) -> Columns:
  """Open the index of complete shards; RecordError if a manifest is missing."""
  digest, newest = hashlib.sha256(), 0
  for path in map(manifest_path, shards):
    try:
      stat = path.stat()
    except FileNotFoundError:
      raise RecordError(
        f'{path}: not found; the targets are incomplete: run decode_targets again'
      ) from None
    digest.update(f'{path.name} {stat.st_size}\n'.encode())
    newest = max(newest, stat.st_mtime_ns)
  key = {
    'version': VERSION,
    'provenance': sha256(folder / PROVENANCE_FILE),
    'manifests': digest.hexdigest(),
  }
  return open_or_make(folder / FILE, key, newest, lambda: _read_index(folder, shards))


def _read_index(
  folder: Path, shards: Sequence[Path]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Return the columns and facts of the index, from the manifests."""
  hashes, tokens, flags, instructions = [], [], [], []
  names: dict[str, int] = {}
  num_skipped = 0
  for path in shards:
    manifest = read_manifest(manifest_path(path))
    hashes.append(hash_ids(manifest['ids']))
    tokens.append(np.asarray(manifest['tokens'], np.int32))
    numbers = [names.setdefault(flag, len(names)) for flag in manifest['flags']]
    if len(names) > MAX_FLAGS:
      raise RecordError(f'{path}: over {MAX_FLAGS} different flags')
    flags.append(np.asarray(numbers, np.uint8))
    instructions.append(_check_instructions(path, manifest['instructions']))
    num_skipped += len(manifest['skipped'])
  everything = np.concatenate(hashes)
  row = np.argsort(everything, kind='stable').astype(np.int32)
  columns = {
    'id_hash': everything[row],
    'row': row,
    'tokens': np.concatenate(tokens),
    'flag': np.concatenate(flags),
    'instruction': np.concatenate(instructions),
  }
  facts = {'flags': [*names], 'skipped': num_skipped}
  return columns, facts | {'collisions': _find_collisions(folder, shards, columns)}


def _check_instructions(path: Path, numbers: list[int]) -> UInt16[np.ndarray, ' n']:
  if numbers and not 0 <= min(numbers) <= max(numbers) < MAX_INSTRUCTIONS:
    raise RecordError(
      f'{manifest_path(path)}: instructions are from {min(numbers)} to {max(numbers)};'
      f' the limits are 0 and {MAX_INSTRUCTIONS - 1}'
    )
  return np.asarray(numbers, np.uint16)


def _find_collisions(
  folder: Path, shards: Sequence[Path], columns: dict[str, np.ndarray]
) -> list[int]:
  """Return the positions of equal hashes; RecordError if the ids are equal, too."""
  hashes, row = columns['id_hash'], columns['row']
  equal = np.flatnonzero(hashes[1:] == hashes[:-1])
  if not len(equal):
    return []
  positions = np.union1d(equal, equal + 1)
  wanted = {*row[positions].tolist()}
  ids = [id for number, id in enumerate(read_ids(shards)) if number in wanted]
  if repeated := len(ids) - len({*ids}):
    raise RecordError(
      f'{folder}: the manifests list {len(row)} ids, {len(row) - repeated} of them'
      ' distinct'
    )
  return positions.tolist()


def read_ids(shards: Sequence[Path]) -> Iterator[str]:
  """Yield the ids of the responses, one manifest in memory at a time."""
  for path in shards:
    yield from read_manifest(manifest_path(path))['ids']
