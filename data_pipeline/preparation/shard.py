# SPDX-License-Identifier: Apache-2.0
"""One part of the plan -> one shard, checksummed and noted: what a worker does.

A worker finds everything by its path: the plan and the recordings to read, the output
to write. A shard takes its name once it is whole, and its note is written last.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from acl_jax.runtime.files import open_atomically, sha256, temporary_path
from data_pipeline import audio, records
from data_pipeline.corpora.utterance import BadUtterance, Item
from data_pipeline.preparation.plan import Plan

_A = TypeVar('_A')
_B = TypeVar('_B')
_Result = tuple[dict[str, Any], bytes] | BadUtterance  # (line of the index, record)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the content of a shard, besides the utterances."""

  shard_size: int = 1_000  # utterances
  max_characters: int = 2_000  # of a transcript
  encoding: str = 'flac'  # one of records.ENCODINGS
  limits: audio.Limits = audio.Limits()


@dataclasses.dataclass(frozen=True)
class Job:
  """All that a worker needs to know."""

  output: Path
  plan: Plan
  settings: Settings
  threads: int  # that decode

  def shard(self, part: int) -> Path:
    """Where the shard of a part is to be."""
    return self.output / records.shard_name('data', part, self.plan.parts)

  def note(self, part: int) -> Path:
    """Where the note that the shard is finished is to be."""
    return self.output / 'progress' / f'{self.shard(part).name}.json'


def ignore(count: int) -> None:
  """Nobody watches."""
  del count


# Hears of every utterance that is done; the program sets it in its own process.
advance: Callable[[int], None] = ignore


def make(part: int, job: Job) -> None:
  """Writes the shard of a part and its note, unless both are there already."""
  items = job.plan.read(part)
  fingerprint = _fingerprint(items, job.settings)
  if _is_noted(part, job, fingerprint):
    advance(len(items))
    return
  path = job.shard(part)
  temporary = temporary_path(job.note(part).with_name(path.name))
  results = in_order(lambda item: _load(item, job.settings), items, job.threads)
  note = {'fingerprint': fingerprint, 'file': path.name, **_write(temporary, results)}
  temporary.replace(path)
  with open_atomically(job.note(part)) as file:
    json.dump(note, file)


def is_done(part: int, job: Job) -> bool:
  """Whether the shard of a part is there, made from these utterances and settings."""
  return _is_noted(part, job, _fingerprint(job.plan.read(part), job.settings))


def _is_noted(part: int, job: Job, fingerprint: str) -> bool:
  try:
    note = json.loads(job.note(part).read_text())
    same_size = note['bytes'] == job.shard(part).stat().st_size
    return same_size and note['fingerprint'] == fingerprint
  except (OSError, ValueError):
    return False


def _fingerprint(items: Sequence[Item], settings: Settings) -> str:
  """Changes with the utterances, the size or date of their files, and the settings."""
  content: list[Any] = [records.SCHEMA_VERSION, dataclasses.asdict(settings)]
  for item in items:
    entry = {k: v for k, v in vars(item).items() if v is not None}
    if path := entry.pop('audio_filepath', None):
      try:
        stat = path.stat()
        entry['file'] = [path.name, stat.st_size, stat.st_mtime_ns]
      except OSError:  # reported when it is read
        entry['file'] = [path.name]
    content.append(entry)
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def in_order(
  function: Callable[[_A], _B], items: Iterable[_A], threads: int
) -> Iterator[_B]:
  """Maps with threads; only a few results are ever held."""
  with ThreadPoolExecutor(threads) as pool:
    running = collections.deque()
    for item in items:
      running.append(pool.submit(function, item))
      if len(running) > 2 * threads:
        yield running.popleft().result()
    while running:
      yield running.popleft().result()


def _load(item: Item, settings: Settings) -> _Result:
  """The line of the index and the record of one utterance, or why there is none."""
  if isinstance(item, BadUtterance):
    return item
  characters, limit = len(item.text), settings.max_characters
  if not item.text.strip():
    return BadUtterance(item.id, 'text', f'{item.audio_filepath}: text is empty')
  if characters > limit:
    reason = f'{item.audio_filepath}: text has {characters} characters, limit {limit}'
    return BadUtterance(item.id, 'text', reason)
  try:
    samples = item.read(settings.limits)
  except audio.AudioError as error:
    return BadUtterance(item.id, error.field, str(error))
  seconds = len(samples) / audio.SAMPLE_RATE
  entry = {'id': item.id, 'seconds': seconds, 'text': item.text}
  return entry, records.pack_utterance(vars(item), samples, settings.encoding)


def _write(path: Path, results: Iterable[_Result]) -> dict[str, Any]:
  """Writes the shard; returns what its note says of it."""
  index, skipped = [], []

  def usable() -> Iterator[bytes]:
    for result in results:
      if isinstance(result, BadUtterance):
        skipped.append(vars(result))
      else:
        index.append(result[0])
        yield result[1]
      advance(1)

  records.write_shard(path, usable())
  return {
    'bytes': path.stat().st_size,
    'sha256': sha256(path),
    'index': index,
    'skipped': skipped,
  }
