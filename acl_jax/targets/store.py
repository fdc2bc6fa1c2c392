# SPDX-License-Identifier: Apache-2.0
"""Stored responses: the folder that `decode_targets` writes and training reads.

Shard i is `targets-0000i-of-0000N.array_record`. Beside it, and written after it, is
its manifest, the same name with `.json`: the shard's checksum; in the order of the
records their ids, lengths in tokens, flags and instructions; and the utterances without
a response, with the reason.
"""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from acl_jax.runtime.files import require_local, sha256, write_atomically
from acl_jax.targets.provenance import (
  check_same_provenance,
  describe_template,
  read_provenance,
)
from acl_jax.text.frontend import TextFrontend
from data_pipeline.container import RecordError, pack, unpack
from data_pipeline.records import Shards, shard_name, write_shard

NAME = 'targets'
COLUMNS = {'ids': str, 'tokens': int, 'flags': str, 'instructions': int}

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
  write_atomically(_manifest_path(path), json.dumps(manifest) + '\n')


def is_complete(path: Path) -> bool:
  """Return whether a shard has its manifest, and the size that it states."""
  manifest = _manifest_path(path)
  return (
    manifest.exists()
    and path.exists()
    and path.stat().st_size == _read_manifest(manifest)['bytes']
  )


def _manifest_path(shard: Path) -> Path:
  return shard.with_suffix('.json')


def _read_manifest(path: Path) -> dict[str, Any]:
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


class Targets(Mapping[str, dict[str, Any]]):
  """The responses in a complete folder, by utterance id.

  Each is a dict: id, transcript, instruction, text of the response, flag, finish_reason
  ('stop', 'length' or 'repetition'), prompt_fingerprint, response int32 [u] with its
  stop token, log_probs float32 [u] and, if they were requested, the likeliest tokens
  top_ids int32 [u k] and top_log_probs float16 [u k].

  excluded_flags: responses with one of these flags are left out.
  """

  def __init__(self, folder: str | Path, excluded_flags: Sequence[str] = ()):
    self.folder = folder = require_local(folder, 'targets')
    self.provenance = read_provenance(folder)
    self.max_new_tokens: int = self.provenance['decoding']['max_new_tokens']
    total = self.provenance['shards']
    self.paths = [folder / shard_name(NAME, i, total) for i in range(total)]
    self.manifests = [_read_manifest(_manifest_path(path)) for path in self.paths]
    self._shards = Shards(folder, NAME)
    columns = {name: [*self._column(name)] for name in COLUMNS}
    ids, flags = columns['ids'], columns['flags']
    if not len(set(ids)) == len(ids) == len(self._shards):
      raise RecordError(
        f'{folder}: {len(self._shards)} records, but the manifests list {len(ids)} ids,'
        f' {len(set(ids))} of them distinct'
      )
    self._tokens = np.asarray(columns['tokens'])
    self._instructions = np.asarray(columns['instructions'])
    self._rows = {
      id: row
      for row, (id, flag) in enumerate(zip(ids, flags, strict=True))
      if flag not in excluded_flags
    }

  def _column(self, name: str) -> Iterator[Any]:
    return itertools.chain.from_iterable(manifest[name] for manifest in self.manifests)

  def __getitem__(self, id: str) -> dict[str, Any]:
    row = self._rows[id]
    header, arrays = unpack(self._shards[row])
    if header.get('id') != id:
      raise RecordError(
        f'{self._shards.locate(row)}: id is {header.get("id")!r}; the manifest of the'
        f' shard has {id!r}'
      )
    return header | arrays

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
        f'{self._shards.locate(self._rows[id])}: {id!r} answers'
        f' {target["transcript"]!r}; the transcript is {transcript!r}'
      )
    return target

  @property
  def instructions(self) -> list[str]:
    """All instructions; `{}` in them stands for the transcript or the audio."""
    pairs = self.provenance['decoding']['instructions']
    return [instruction for instruction, _ in pairs]

  @property
  def skipped(self) -> list[Skip]:
    """The utterances without a response."""
    return [skip for manifest in self.manifests for skip in manifest['skipped']]

  def flag_counts(self) -> collections.Counter[str]:
    """Count responses by flag, '' for none; excluded responses count as well."""
    return collections.Counter(self._column('flags'))

  def lengths_and_instructions(
    self, ids: Sequence[str]
  ) -> tuple[Int[np.ndarray, ' n'], list[str]]:
    """Return each response's length in tokens, 0 if there is none, and instruction."""
    rows = np.asarray([self._rows.get(id, -1) for id in ids])
    exists, instructions = rows >= 0, self.instructions
    lengths = np.where(exists, self._tokens[rows], 0)
    indices = np.where(exists, self._instructions[rows], 0).tolist()
    return lengths, [instructions[index] for index in indices]

  def __contains__(self, id: object) -> bool:
    return id in self._rows

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __len__(self) -> int:
    return len(self._rows)
