# SPDX-License-Identifier: Apache-2.0
"""The transcripts of a corpus, shard by shard; reads no audio."""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from acl_jax.runtime.files import sha256
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline import corpora
from data_pipeline.container import RecordError
from data_pipeline.corpora.utterance import Utterance
from data_pipeline.records import read_info


class Transcript(NamedTuple):
  """The transcript of an utterance, or the reason why a manifest line has none."""

  id: str
  text: str
  field: str = 'text'  # of the manifest, that `reason` is about
  reason: str = ''


class Transcripts:
  """The transcripts of a prepared folder, in its shards, or of another source.

  source: a prepared folder, a manifest, or transcripts; the latter two are cut into
  shards of `shard_size`. shard_sizes: transcripts in each shard. sha256: of all
  transcripts.
  """

  def __init__(self, source: Path | Iterable[Transcript], shard_size: int):
    self._folder = self._transcripts = None
    if isinstance(source, Path) and source.is_dir():
      self._folder = source
      self.shard_sizes = _read_shard_sizes(source)
      self.sha256 = sha256(source / 'index.jsonl')
      return
    self._transcripts = [
      *(_read_manifest(source) if isinstance(source, Path) else source)
    ]
    whole, rest = divmod(len(self._transcripts), shard_size)
    self.shard_sizes = [shard_size] * whole + [rest] * (rest > 0)
    self.sha256 = fingerprint(json.dumps(row).encode() for row in self._transcripts)

  def __len__(self) -> int:
    return sum(self.shard_sizes)

  def read_shards(
    self, numbers: Collection[int]
  ) -> Iterator[tuple[int, list[Transcript]]]:
    """Yield the number and the transcripts of some shards, in order, one at a time."""
    if self._folder is None:
      assert self._transcripts is not None
      yield from self._select_shards(iter(self._transcripts), numbers)
      return
    path = self._folder / 'index.jsonl'
    with path.open('rb') as lines:
      for number, shard in self._select_shards(lines, numbers):
        yield number, [_parse_line(path, line) for line in shard]

  def _select_shards(self, rows: Iterator, numbers: Collection[int]) -> Iterator:
    for number, size in enumerate(self.shard_sizes):
      shard = list(itertools.islice(rows, size))
      if number in numbers:
        yield number, shard


def _read_shard_sizes(folder: Path) -> list[int]:
  path = folder / 'dataset.json'
  try:
    return [int(shard['examples']) for shard in read_info(path)['shards']]
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path}: not found; --input must be a prepared folder or a manifest'
    ) from None
  except (KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None


def _parse_line(path: Path, line: bytes) -> Transcript:
  try:
    entry = json.loads(line)
    return Transcript(entry['id'], entry['text'])
  except (ValueError, KeyError, TypeError) as error:
    raise RecordError(f'{path}: cannot be read ({error!r})') from None


def _read_manifest(path: Path) -> Iterator[Transcript]:
  for item in corpora.open_corpus('manifest', path):
    if isinstance(item, Utterance):
      yield Transcript(item.id, item.text)
    else:
      yield Transcript(item.id, '', item.field, item.reason)
