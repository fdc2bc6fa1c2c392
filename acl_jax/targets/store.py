# SPDX-License-Identifier: Apache-2.0
"""Stored responses: the folder that `decode_targets` writes and training reads.

Shard i holds `targets-0000i-of-0000N.array_record` and, beside it, written last, a note
`.json`: its checksum and, in the order of the records, their ids, numbers of tokens,
flags and instructions; and what has no response, with the reason.
"""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from acl_jax.runtime.files import sha256, write_atomically
from acl_jax.targets.provenance import check_same, describe_template, read_provenance
from acl_jax.text.frontend import TextFrontend
from data_pipeline.container import RecordError, pack, unpack
from data_pipeline.records import Shards, shard_name, write_shard

NAME = 'targets'
COLUMNS = {'ids': str, 'tokens': int, 'flags': str, 'instructions': int}

Skip = dict[str, str]  # id, field to blame and reason, of what has no response


class Target(NamedTuple):
  """What is kept of a response: header and arrays of its record, see `Targets`."""

  header: dict[str, Any]
  arrays: dict[str, np.ndarray]
  instruction: int  # its place in the list of the provenance


def write_targets(
  path: Path, targets: Iterable[Target], skipped: Sequence[Skip]
) -> None:
  """Writes a shard and then its note: with that, and not before, it is there."""
  columns: dict[str, list] = {name: [] for name in COLUMNS}

  def records() -> Iterator[bytes]:
    for header, arrays, instruction in targets:
      row = header['id'], len(arrays['response']), header['flag'], instruction
      for column, value in zip(columns.values(), row, strict=True):
        column.append(value)
      yield pack(header, arrays)

  write_shard(path, records())
  note = {'sha256': sha256(path), 'bytes': path.stat().st_size, **columns}
  write_atomically(_manifest_path(path), json.dumps(note | {'skipped': skipped}) + '\n')


def is_written(path: Path) -> bool:
  """Whether a shard is there, whole as far as its size tells."""
  note = _manifest_path(path)
  return (
    note.exists()
    and path.exists()
    and path.stat().st_size == _read_manifest(note)['bytes']
  )


def _manifest_path(shard: Path) -> Path:
  return shard.with_suffix('.json')


def _read_manifest(path: Path) -> dict[str, Any]:
  """A shard's note, of the right form."""
  try:
    note = json.loads(path.read_text())
    rows = {len(note[name]) for name in COLUMNS}
    kinds = [type(x) is kind for name, kind in COLUMNS.items() for x in note[name]]
    kinds += [isinstance(note['bytes'], int), isinstance(note['sha256'], str)]
    if len(rows) != 1 or not all(kinds) or not isinstance(note['skipped'], list):
      raise ValueError('its columns do not fit together')
  except FileNotFoundError:
    raise RecordError(
      f'{path}: is missing; the targets are not finished: run decode_targets again'
    ) from None
  except (ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None
  return note


class Targets(Mapping[str, dict[str, Any]]):
  """The responses of a finished folder, by the id of the example.

  A dict each: id, transcript, instruction, text of the response, flag, finish_reason
  ('stop', 'length' or 'repetition'), prompt_fingerprint, response int32 [u] with its
  stop token, log_probs float32 [u] and, where they were asked for, the likeliest tokens
  top_ids int32 [u k], top_log_probs float16 [u k].

  leave_out: responses with one of these flags are as if they were not there.
  """

  def __init__(self, folder: str | Path, leave_out: Sequence[str] = ()):
    self.folder = folder = Path(folder)
    self.provenance = read_provenance(folder)
    self.max_new_tokens: int = self.provenance['decoding']['max_new_tokens']
    total = self.provenance['shards']
    self.paths = [folder / shard_name(NAME, i, total) for i in range(total)]
    self.notes = [_read_manifest(_manifest_path(path)) for path in self.paths]
    self._shards = Shards(folder, NAME)
    every = {name: [*self._column(name)] for name in COLUMNS}
    if not len(set(every['ids'])) == len(every['ids']) == len(self._shards):
      raise RecordError(
        f'{folder}: {len(self._shards)} records, but the notes of the shards have'
        f' {len(every["ids"])} ids, {len(set(every["ids"]))} of them different'
      )
    self._tokens = np.asarray(every['tokens'])
    self._instructions = np.asarray(every['instructions'])
    self._rows = {
      id: row
      for row, (id, flag) in enumerate(zip(every['ids'], every['flags'], strict=True))
      if flag not in leave_out
    }

  def _column(self, name: str) -> Iterator[Any]:
    return itertools.chain.from_iterable(note[name] for note in self.notes)

  def __getitem__(self, id: str) -> dict[str, Any]:
    row = self._rows[id]
    header, arrays = unpack(self._shards[row])
    if header.get('id') != id:
      raise RecordError(
        f'{self._shards.locate(row)}: id is not {id!r}, as in the note of the shard'
      )
    return header | arrays

  def check(self, llm: Mapping[str, Any], text: TextFrontend) -> None:
    """ValueError if another LLM gave the responses, or was asked in another way.

    llm: what `describe` says of it.
    """
    ours = {'llm': llm, 'template': describe_template(text)}
    hint = 'run decode_targets with this config'
    check_same(self.folder, self.provenance, ours, hint)

  def read(self, id: str, text: str) -> dict[str, Any]:
    """The response to a transcript; RecordError if it was made from another."""
    target = self[id]
    if target['transcript'] != text:
      raise RecordError(
        f'{self._shards.locate(self._rows[id])}: {id!r} answers'
        f' {target["transcript"]!r}; the transcript is {text!r}'
      )
    return target

  @property
  def instructions(self) -> list[str]:
    """All that were given; in them `{}` is the transcript, or the recording."""
    return [asked for asked, _ in self.provenance['decoding']['instructions']]

  @property
  def skipped(self) -> list[Skip]:
    """What has no response."""
    return [skip for note in self.notes for skip in note['skipped']]

  def flags(self) -> collections.Counter[str]:
    """How many responses have each flag, '' for none; those left out included."""
    return collections.Counter(self._column('flags'))

  def lengths(self, ids: Sequence[str]) -> tuple[Int[np.ndarray, ' n'], list[str]]:
    """The tokens of each response, 0 where there is none, and each instruction."""
    rows = np.asarray([self._rows.get(id, -1) for id in ids])
    known, asked = rows >= 0, self.instructions
    tokens = np.where(known, self._tokens[rows], 0)
    chosen = np.where(known, self._instructions[rows], 0).tolist()
    return tokens, [asked[number] for number in chosen]

  def __contains__(self, id: object) -> bool:
    return id in self._rows

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __len__(self) -> int:
    return len(self._rows)
