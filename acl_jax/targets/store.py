# SPDX-License-Identifier: Apache-2.0
"""Stored responses: the folder that `decode_targets` writes and training reads.

Shard i is `targets-0000i-of-0000N.array_record`. Beside it, and written after it, is
its manifest, the same name with `.json`: the shard's checksum; in the order of the
records their ids, lengths in tokens, flags and instructions; and the utterances without
a response, with the reason.
"""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt64

from acl_jax.runtime.files import require_local, sha256, write_atomically
from acl_jax.targets.index import open_index, read_ids
from acl_jax.targets.manifests import COLUMNS, manifest_path, read_manifest
from acl_jax.targets.provenance import (
  check_same_provenance,
  describe_template,
  read_provenance,
)
from acl_jax.text.frontend import TextFrontend
from data_pipeline.container import RecordError, pack, unpack
from data_pipeline.id_hashes import find_sorted, hash_id
from data_pipeline.records import Shards, shard_name, write_shard

NAME = 'targets'

Skip = dict[str, str]  # id, field and reason of an utterance without a response


class Target(NamedTuple):
  """A response as stored: header and arrays of its record, see `Targets`."""

  header: dict[str, Any]
  arrays: dict[str, np.ndarray]
  instruction: int  # index into `Targets.instructions`


def write_targets(
  path: Path, targets: Iterable[Target], skipped: Sequence[Skip]
) -> None:
  """Write a shard, then its manifest, which makes the shard complete."""
  columns: dict[str, list] = {name: [] for name in COLUMNS}

  def records() -> Iterator[bytes]:
    for header, arrays, instruction in targets:
      row = header['id'], len(arrays['response']), header['flag'], instruction
      for column, value in zip(columns.values(), row, strict=True):
        column.append(value)
      yield pack(header, arrays)

  write_shard(path, records())
  manifest = {
    'sha256': sha256(path),
    'bytes': path.stat().st_size,
    **columns,
    'skipped': skipped,
  }
  write_atomically(manifest_path(path), json.dumps(manifest) + '\n')


def is_complete(path: Path) -> bool:
  """Return whether a shard has its manifest, and the size that it states."""
  manifest = manifest_path(path)
  return (
    manifest.exists()
    and path.exists()
    and path.stat().st_size == read_manifest(manifest)['bytes']
  )


class Targets(Mapping):
  """The responses in a complete folder, by utterance id.

  Each is a dict: id, transcript, instruction, text of the response, flag, finish_reason
  ('stop', 'length' or 'repetition'), prompt_fingerprint, response int32 [u] with its
  stop token, log_probs float32 [u] and, if they were requested, the likeliest tokens
  top_ids int32 [u k] and top_log_probs float16 [u k].

  tokens, instruction: of each response in the order of the records, its length and
  the number of its instruction; excluded ones count as well.

  excluded_flags: responses with one of these flags are left out.
  """

  def __init__(self, folder: str | Path, excluded_flags: Sequence[str] = ()):
    self.folder = folder = require_local(folder, 'targets')
    self.provenance = read_provenance(folder)
    self.max_new_tokens: int = self.provenance['decoding']['max_new_tokens']
    total = self.provenance['shards']
    self.paths = [folder / shard_name(NAME, i, total) for i in range(total)]
    self._index = open_index(folder, self.paths)
    self._shards = Shards(folder, NAME)
    self.tokens, self.instruction = self._index['tokens'], self._index['instruction']
    if len(self.tokens) != len(self._shards):
      raise RecordError(
        f'{folder}: {len(self._shards)} records, but the manifests list'
        f' {len(self.tokens)} ids'
      )
    if (self.instruction >= len(self.instructions)).any():
      raise RecordError(f'{folder}: an instruction of the manifests does not exist')
    flags = self._index.facts['flags']
    numbers = [flags.index(flag) for flag in excluded_flags if flag in flags]
    self._excluded = np.isin(self._index['flag'], numbers)

  def _candidates(self, id: str) -> list[int]:
    """Return the rows of the responses to ids with the hash of this one."""
    hashes, hash = self._index['id_hash'], np.uint64(hash_id(id))
    first, last = np.searchsorted(hashes, hash), np.searchsorted(hashes, hash, 'right')
    rows = self._index['row'][first:last].tolist()
    return [row for row in rows if not self._excluded[row]]

  def _find(self, id: str) -> int | None:
    rows = self._candidates(id)
    if len(rows) > 1:
      rows = [row for row in rows if unpack(self._shards[row])[0].get('id') == id]
    return rows[0] if rows else None

  def __getitem__(self, id: str) -> dict[str, Any]:
    row = self._find(id)
    if row is None:
      raise KeyError(id)
    target = self.read_row(row)
    if target.get('id') != id:
      raise RecordError(
        f'{self._shards.locate(row)}: id is {target.get("id")!r}; the manifest of the'
        f' shard has {id!r}'
      )
    return target

  def read_row(self, row: int) -> dict[str, Any]:
    """Read a response by its number; RecordError if it contradicts the index."""
    header, arrays = unpack(self._shards[row])
    count = len(arrays.get('response', ()))
    if count != self.tokens[row]:
      raise RecordError(
        f'{self._shards.locate(row)}: has {count} tokens; the manifest of the shard'
        f' has {self.tokens[row]}'
      )
    return header | arrays

  def find_rows(
    self, ids: Sequence[str], id_hashes: UInt64[np.ndarray, ' n']
  ) -> Int32[np.ndarray, ' n']:
    """Return the number of the response to each utterance, -1 if there is none.

    ids: are read only where two responses have the same hash.
    """
    if not len(self.tokens):
      return np.full(len(id_hashes), -1, np.int32)
    positions = find_sorted(id_hashes, self._index['id_hash'])
    rows = np.where(positions >= 0, self._index['row'][positions], -1)
    rows[(rows >= 0) & self._excluded[rows]] = -1
    if collisions := self._index.facts['collisions']:
      for number in np.flatnonzero(np.isin(positions, collisions)).tolist():
        row = self._find(ids[number])
        rows[number] = -1 if row is None else row
    return rows

  def check_provenance(self, llm: Mapping[str, Any], text: TextFrontend) -> None:
    """Raise ValueError if the responses have another LLM or template.

    llm: as `fingerprint.describe` returns it.
    """
    expected = {'llm': llm, 'template': describe_template(text)}
    hint = 'run decode_targets with this config'
    check_same_provenance(self.folder, self.provenance, expected, hint)

  def read_response(self, id: str, transcript: str) -> dict[str, Any]:
    """Read the response to an utterance; RecordError if its transcript differs."""
    target = self[id]
    if target['transcript'] != transcript:
      raise RecordError(
        f'{self.folder}: the response to {id!r} answers'
        f' {target["transcript"]!r}; the transcript is {transcript!r}'
      )
    return target

  @property
  def instructions(self) -> list[str]:
    """All instructions; `{}` in them stands for the transcript or the audio."""
    pairs = self.provenance['decoding']['instructions']
    return [instruction for instruction, _ in pairs]

  @property
  def skipped(self) -> Iterator[Skip]:
    """The utterances without a response."""
    for path in self.paths:
      yield from read_manifest(manifest_path(path))['skipped']

  @property
  def num_skipped(self) -> int:
    """The number of utterances without a response."""
    return self._index.facts['skipped']

  def flag_counts(self) -> collections.Counter[str]:
    """Count responses by flag, '' for none; excluded responses count as well."""
    counts = np.bincount(self._index['flag']).tolist()
    pairs = zip(self._index.facts['flags'], counts, strict=False)
    return collections.Counter({flag: count for flag, count in pairs if count})

  def __contains__(self, id: object) -> bool:
    return isinstance(id, str) and self._find(id) is not None

  def __iter__(self) -> Iterator[str]:
    for id, is_excluded in zip(read_ids(self.paths), self._excluded, strict=True):
      if not is_excluded:
        yield id

  def __len__(self) -> int:
    return len(self.tokens) - int(self._excluded.sum())
