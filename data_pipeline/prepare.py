# SPDX-License-Identifier: Apache-2.0
"""A corpus as its publisher ships it -> ArrayRecord shards of 16 kHz speech.

  python -m data_pipeline.prepare --input=speech/manifest.jsonl --output=prepared

Shard i holds the i-th `--shard_size` utterances: the same input gives the same bytes. A
finished shard is noted in `OUTPUT/progress`, where a run that was stopped goes on.
Utterances that cannot be used are skipped, counted and listed in `dataset.json`.
"""

import collections
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax import program
from data_pipeline import audio, records
from data_pipeline.corpora import CORPORA, open_corpus
from data_pipeline.corpora.utterance import BadUtterance, Item
from data_pipeline.progress import progress

Result = tuple[dict[str, Any], bytes] | BadUtterance  # (line of the index, record)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the content of a shard, besides the utterances."""

  shard_size: int = 1_000  # utterances
  max_characters: int = 2_000  # of a transcript
  limits: audio.Limits = audio.Limits()


def prepare(
  corpus: str,
  input: str | Path,
  output: str | Path,
  *,
  settings: Settings = Settings(),
  max_skipped: float = 0.01,
  threads: int | None = None,
) -> dict[str, Any]:
  """Writes the shards that are not there yet; returns the content of `dataset.json`.

  ValueError if `output` holds something else, or if more than the share `max_skipped`
  of the utterances had to be skipped (the finished shards stay for the next run).
  """
  output = Path(output)
  items = list(open_corpus(corpus, input))
  if not items:
    raise ValueError(f'{input}: no utterances in the layout of --corpus={corpus}')
  size = settings.shard_size
  parts = [items[start : start + size] for start in range(0, len(items), size)]
  notes = _notes_of_finished(output, parts, settings)

  with progress('prepare', len(items)) as advance:
    for index, part in enumerate(parts):
      if notes[index]:
        advance(len(part))
        continue
      name = records.shard_name('data', index, len(parts))
      results = _in_order(lambda item: _load(item, settings), part, threads)
      note = {'fingerprint': _fingerprint(part, settings)}
      note |= _write_shard(output / name, results, advance)
      _write(output / 'progress' / f'{name}.json', json.dumps(note))
      notes[index] = note
  return _finish(output, notes, max_skipped)


def _notes_of_finished(
  output: Path, parts: Sequence[Sequence[Item]], settings: Settings
) -> list[dict[str, Any]]:
  """Each shard's note, {} if it is not done; ValueError if the folder holds others."""
  names = [records.shard_name('data', i, len(parts)) for i in range(len(parts))]
  notes = []
  for name, part in zip(names, parts, strict=True):
    try:
      note = json.loads((output / 'progress' / f'{name}.json').read_text())
      same = note['fingerprint'] == _fingerprint(part, settings)
      done = same and note['bytes'] == (output / name).stat().st_size
    except (OSError, ValueError):
      note, done = {}, False
    notes.append(note if done else {})
  strangers = {path.name for path in output.glob('data-*.array_record')} - set(names)
  if (output / 'dataset.json').exists():
    strangers |= {name for name, note in zip(names, notes, strict=True) if not note}
  if strangers:
    raise ValueError(
      f'{output / min(strangers)}: is not the shard that this input and these settings '
      f'make; delete {output} or choose another --output'
    )
  (output / 'progress').mkdir(parents=True, exist_ok=True)
  return notes


def _fingerprint(part: Sequence[Item], settings: Settings) -> str:
  """Changes with the utterances, the size or date of their files, and the settings."""
  content: list[Any] = [records.SCHEMA_VERSION, dataclasses.asdict(settings)]
  for item in part:
    entry = {k: v for k, v in vars(item).items() if (k, v) != ('span', None)}
    if path := entry.pop('audio_filepath', None):
      try:
        stat = path.stat()
        entry['file'] = [path.name, stat.st_size, stat.st_mtime_ns]
      except OSError:  # reported when it is read
        entry['file'] = [path.name]
    content.append(entry)
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _in_order(
  function: Callable[[Item], Result], items: Iterable[Item], threads: int | None
) -> Iterator[Result]:
  """Maps with threads; only a few results are ever held."""
  threads = threads or os.cpu_count() or 1
  with ThreadPoolExecutor(threads) as pool:
    running = collections.deque()
    for item in items:
      running.append(pool.submit(function, item))
      if len(running) > 2 * threads:
        yield running.popleft().result()
    while running:
      yield running.popleft().result()


def _load(item: Item, settings: Settings) -> Result:
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
    samples = audio.read(item.audio_filepath, limits=settings.limits, span=item.span)
  except audio.AudioError as error:
    return BadUtterance(item.id, error.field, str(error))
  seconds = len(samples) / audio.SAMPLE_RATE
  entry = {'id': item.id, 'seconds': seconds, 'text': item.text}
  return entry, records.pack_utterance(vars(item), samples)


def _write_shard(
  path: Path, results: Iterable[Result], advance: Callable[[int], None]
) -> dict[str, Any]:
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
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, 'sha256')
  return {
    'file': path.name,
    'bytes': path.stat().st_size,
    'sha256': digest.hexdigest(),
    'index': index,
    'skipped': skipped,
  }


def _finish(
  output: Path, notes: Sequence[dict[str, Any]], max_skipped: float
) -> dict[str, Any]:
  """Checks the share of skips, then writes `index.jsonl` and, last, `dataset.json`."""
  index = [entry for note in notes for entry in note['index']]
  skipped = [entry for note in notes for entry in note['skipped']]
  counts = dict(collections.Counter(entry['field'] for entry in skipped).most_common())
  for entry in skipped:
    print(f'prepare: skipped {entry["id"]}: {entry["reason"]}', file=sys.stderr)
  total = len(index) + len(skipped)
  if len(skipped) > max_skipped * total or not index:
    raise ValueError(
      f'{len(skipped)} of {total} utterances cannot be used {counts}, limit '
      f'{max_skipped:.1%}: mend them or raise --max_skipped; {output} keeps the others'
    )
  info = {
    'schema_version': records.SCHEMA_VERSION,
    'sample_rate': audio.SAMPLE_RATE,
    'examples': len(index),
    'hours': round(sum(entry['seconds'] for entry in index) / 3600, 6),
    'shards': [
      {'file': note['file'], 'examples': len(note['index']), 'sha256': note['sha256']}
      for note in notes
    ],
    'skipped_by_field': counts,
    'skipped': skipped,
  }
  _write(output / 'index.jsonl', ''.join(json.dumps(entry) + '\n' for entry in index))
  _write(output / 'dataset.json', json.dumps(info, indent=2) + '\n')
  return info


def _write(path: Path, text: str) -> None:
  """Writes a file whole or not at all."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text, encoding='utf-8')
  temporary.replace(path)


def main(argv: Sequence[str]) -> None:
  """Runs `prepare` with the flags."""
  del argv
  given = flags.FLAGS
  info = prepare(
    given.corpus,
    given.input,
    given.output,
    settings=Settings(
      given.shard_size, given.max_characters, audio.Limits(seconds=given.max_seconds)
    ),
    max_skipped=given.max_skipped,
    threads=given.threads,
  )
  print(
    f'prepare: {info["examples"]} utterances, {info["hours"]:.2f} hours, '
    f'{len(info["skipped"])} skipped, in {given.output}'
  )


if __name__ == '__main__':
  # Defined here: other programs of this package have flags of the same names.
  flags.DEFINE_enum('corpus', 'manifest', sorted(CORPORA), 'layout of the corpus')
  flags.DEFINE_string('input', None, 'the manifest, or the folder of the corpus')
  flags.DEFINE_string('output', None, 'folder to write')
  flags.DEFINE_integer('shard_size', 1_000, 'utterances per shard', lower_bound=1)
  flags.DEFINE_float('max_skipped', 0.01, 'share that may be unusable', 0, 1)
  flags.DEFINE_integer('max_characters', 2_000, 'of a transcript', lower_bound=1)
  flags.DEFINE_float('max_seconds', 600, 'of an utterance', 0.025)
  flags.DEFINE_integer('threads', None, 'that decode; by default one per core')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
