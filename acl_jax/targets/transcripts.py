# SPDX-License-Identifier: Apache-2.0
"""The transcripts of a corpus, shard by shard; no audio is opened."""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from acl_jax.runtime.files import sha256
from acl_jax.targets.store import Skip
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline import corpora
from data_pipeline.container import RecordError
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.records import read_info


class Transcript(NamedTuple):
  """What was said in a recording; `reason` is why a line of a manifest has none."""

  id: str
  text: str
  field: str = 'text'  # to blame
  reason: str = ''

  @property
  def skip(self) -> Skip:
    """As a target's note lists it."""
    return {'id': self.id, 'field': self.field, 'reason': self.reason}


class Transcripts:
  """Those of a prepared folder, in its shards, or others in shards of `shard_size`.

  sizes: how many each shard has. sha256: of all.
  """

  def __init__(self, source: Path | Iterable[Transcript], shard_size: int):
    self._folder = self._rows = None
    if isinstance(source, Path) and source.is_dir():
      self._folder = source
      self.sizes, self.sha256 = _sizes(source), sha256(source / 'index.jsonl')
      return
    found = _of_manifest(source) if isinstance(source, Path) else source
    self._rows = list(found)
    whole, rest = divmod(len(self._rows), shard_size)
    self.sizes = [shard_size] * whole + [rest] * (rest > 0)
    self.sha256 = fingerprint(json.dumps(row).encode() for row in self._rows)

  def __len__(self) -> int:
    return sum(self.sizes)

  def read(self, numbers: Collection[int]) -> Iterator[tuple[int, list[Transcript]]]:
    """Some of the shards with their numbers, in order, read one by one."""
    if self._folder is None:
      assert self._rows is not None
      yield from self._cut(iter(self._rows), numbers)
      return
    path = self._folder / 'index.jsonl'
    with path.open('rb') as lines:
      for number, shard in self._cut(lines, numbers):
        yield number, [_of_line(path, line) for line in shard]

  def _cut(self, rows: Iterator, numbers: Collection[int]) -> Iterator:
    for number, size in enumerate(self.sizes):
      shard = list(itertools.islice(rows, size))
      if number in numbers:
        yield number, shard


def _sizes(folder: Path) -> list[int]:
  path = folder / 'dataset.json'
  try:
    return [int(shard['examples']) for shard in read_info(path)['shards']]
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path}: not found; --input is a prepared folder or a manifest'
    ) from None
  except (KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None


def _of_line(path: Path, line: bytes) -> Transcript:
  try:
    entry = json.loads(line)
    return Transcript(entry['id'], entry['text'])
  except (ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None


def _of_manifest(path: Path) -> Iterator[Transcript]:
  for item in corpora.open_corpus('manifest', path):
    if isinstance(item, Utterance):
      yield Transcript(item.id, item.text)
    else:
      yield Transcript(item.id, '', item.field, item.reason)
