# SPDX-License-Identifier: Apache-2.0
"""The work of a Beam worker: turn one part of the plan into a checksummed shard.

A worker finds the plan, the audio and the output by their paths. A shard is complete
once its progress file exists, which is written last.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from acl_jax.runtime.files import open_atomically, sha256, temporary_path
from data_pipeline import audio, records
from data_pipeline.corpora.text_files import is_blank
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance
from data_pipeline.preparation.plan import Plan
from data_pipeline.voice_activity import has_speech

_A = TypeVar('_A')
_B = TypeVar('_B')
# Index entry, record, whether it has speech.
_Result = tuple[dict[str, Any], bytes, bool] | BadUtterance


@dataclasses.dataclass(frozen=True)
class Settings:
  """Everything that determines the content of a shard except its utterances."""

  shard_size: int = 1_000  # utterances
  max_characters: int = 2_000  # of a transcript
  encoding: str = 'flac'  # one of records.ENCODINGS
  limits: audio.Limits = audio.Limits()


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything that a worker needs."""

  output: Path
  plan: Plan
  settings: Settings
  threads: int  # that decode

  def shard_path(self, part: int) -> Path:
    """Return the path of the shard of a part."""
    return self.output / records.shard_name('data', part, self.plan.parts)

  def progress_path(self, part: int) -> Path:
    """Return the path of the progress file of a part."""
    return self.output / 'progress' / f'{self.shard_path(part).name}.json'


def ignore_progress(count: int) -> None:
  """Do nothing: the default of `report_progress`."""
  del count


# Called with the number of utterances just finished; the program sets it in-process.
report_progress: Callable[[int], None] = ignore_progress


def make_shard(part: int, job: Job) -> None:
  """Write the shard of a part, then its progress file, unless both exist."""
  utterances = job.plan.read(part)
  fingerprint = _fingerprint(utterances, job.settings)
  if _is_finished(part, job, fingerprint):
    report_progress(len(utterances))
    return
  path = job.shard_path(part)
  temporary = temporary_path(job.progress_path(part).with_name(path.name))
  load = functools.partial(_load_record, settings=job.settings)
  results = map_in_order(load, utterances, job.threads)
  info = {'fingerprint': fingerprint, 'file': path.name}
  info |= _write_shard(temporary, results)
  temporary.replace(path)
  with open_atomically(job.progress_path(part)) as file:
    json.dump(info, file)


def is_complete(part: int, job: Job) -> bool:
  """Return whether the shard exists, made from these utterances and settings."""
  return _is_finished(part, job, _fingerprint(job.plan.read(part), job.settings))


def _is_finished(part: int, job: Job, fingerprint: str) -> bool:
  try:
    info = json.loads(job.progress_path(part).read_text())
    same_size = info['bytes'] == job.shard_path(part).stat().st_size
    return same_size and info['fingerprint'] == fingerprint
  except (OSError, ValueError):
    return False


def _fingerprint(utterances: Sequence[AnyUtterance], settings: Settings) -> str:
  """Hash the utterances, the size and date of their files, and the settings."""
  content: list[Any] = [records.SCHEMA_VERSION, dataclasses.asdict(settings)]
  for utterance in utterances:
    entry = {k: v for k, v in vars(utterance).items() if v is not None}
    if path := entry.pop('audio_filepath', None):
      try:
        stat = path.stat()
        entry['file'] = [path.name, stat.st_size, stat.st_mtime_ns]
      except OSError:  # reported when it is read
        entry['file'] = [path.name]
    content.append(entry)
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def map_in_order(
  function: Callable[[_A], _B], items: Iterable[_A], threads: int
) -> Iterator[_B]:
  """Map with threads; holds only a few results at a time."""
  with ThreadPoolExecutor(threads) as pool:
    running = collections.deque()
    for item in items:
      running.append(pool.submit(function, item))
      if len(running) > 2 * threads:
        yield running.popleft().result()
    while running:
      yield running.popleft().result()


def _load_record(utterance: AnyUtterance, settings: Settings) -> _Result:
  """Return the index entry and record of an utterance, or the reason to skip it."""
  if isinstance(utterance, BadUtterance):
    return utterance
  id, path = utterance.id, utterance.audio_filepath
  characters, limit = len(utterance.text), settings.max_characters
  if is_blank(utterance.text):
    return BadUtterance(id, 'text', f'{path}: text is empty')
  if characters > limit:
    reason = f'{path}: text has {characters} characters, limit {limit}'
    return BadUtterance(id, 'text', reason)
  try:
    samples = utterance.read(settings.limits)
  except audio.AudioError as error:
    return BadUtterance(id, error.field, str(error))
  seconds = len(samples) / audio.SAMPLE_RATE
  entry = {'id': id, 'seconds': seconds, 'text': utterance.text}
  record = records.pack_utterance(vars(utterance), samples, settings.encoding)
  return entry, record, has_speech(samples, by_energy=True)


def _write_shard(path: Path, results: Iterable[_Result]) -> dict[str, Any]:
  """Write the shard; returns the content of its progress file."""
  index, skipped, without_speech = [], [], []

  def usable_records() -> Iterator[bytes]:
    for result in results:
      if isinstance(result, BadUtterance):
        skipped.append(vars(result))
      else:
        entry, record, speaks = result
        index.append(entry)
        if not speaks:
          without_speech.append(entry['id'])
        yield record
      report_progress(1)

  records.write_shard(path, usable_records())
  return {
    'bytes': path.stat().st_size,
    'sha256': sha256(path),
    'index': index,
    'skipped': skipped,
    'without_speech': without_speech,
  }
