# SPDX-License-Identifier: Apache-2.0
"""Program: show what a prepared folder holds, and check that it is intact.

python -m data_pipeline.inspect prepared
python -m data_pipeline.inspect prepared --check
python -m data_pipeline.inspect prepared --record=12 --play --plot=12.png
"""

import collections
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from rich.console import Console
from rich.text import Text

from acl_jax.runtime import program
from acl_jax.runtime.files import require_local
from acl_jax.runtime.progress import progress
from acl_jax.runtime.terminal import print_fields, print_histogram, printable
from data_pipeline import records, single_record

SAMPLE_SIZE = 300  # records read at most to count speakers and languages
MAX_BINS = 12  # of the histogram
READ_BATCH = 8  # records in memory at a time
BLOCK_BYTES = 1 << 20
MAX_NAMES = 8  # of speakers or languages


class Shard(NamedTuple):
  """A shard as listed in `dataset.json`."""

  path: Path
  sha256: str


def list_shards(folder: Path) -> list[Shard]:
  """Return the shards in `dataset.json`; RecordError if it cannot be read."""
  path = folder / 'dataset.json'
  try:
    entries = json.loads(path.read_text())['shards']
    return [Shard(folder / Path(e['file']).name, str(e['sha256'])) for e in entries]
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a prepared folder?') from None
  except (ValueError, KeyError, TypeError) as error:
    raise records.RecordError(f'{path}: cannot be read ({error!r})') from None


def summarize(folder: Path, dataset: records.Dataset) -> dict[str, str]:
  """Return statistics of a prepared folder, each by its name."""
  seconds = dataset.seconds
  total = max(float(seconds.sum(dtype=np.float64)), 1e-9)
  characters = words = 0
  for text in dataset.texts:  # one at a time
    characters, words = characters + len(text), words + len(text.split())
  sizes = [shard.path.stat().st_size / 1e6 for shard in list_shards(folder)]
  skipped = dataset.info.get('skipped_by_field') or {}
  reasons = ''.join(f', {count} by {field}' for field, count in skipped.items())
  speakers, languages = _count_speakers_and_languages(dataset)
  return {
    'utterances': f'{len(dataset):,}',
    'hours': f'{total / 3600:,.2f}',
    'seconds': f'{np.mean(seconds):.1f} on average, {np.min(seconds):.1f} to '
    f'{np.max(seconds):.1f}, median {np.median(seconds):.1f}',
    'characters': f'{characters:,}, {characters / total:.1f} per second',
    'words': f'{words:,}, {words / total:.1f} per second',
    'speakers': speakers,
    'languages': languages,
    'skipped': f'{sum(skipped.values()):,}{reasons}',
    'shards': f'{len(sizes):,} of {min(sizes):,.1f} to {max(sizes):,.1f} MB, '
    f'{sum(sizes):,.1f} MB in total',
  }


def _count_speakers_and_languages(dataset: records.Dataset) -> tuple[str, str]:
  """Count speakers and languages in at most SAMPLE_SIZE records."""
  size = min(len(dataset), SAMPLE_SIZE)
  indices = np.linspace(0, len(dataset) - 1, size).astype(int).tolist()
  speakers, languages = collections.Counter(), collections.Counter()
  for start in range(0, size, READ_BATCH):
    for utterance in dataset.__getitems__(indices[start : start + READ_BATCH]):
      speakers[utterance['speaker'] or 'unknown'] += 1
      languages[utterance['lang'] or 'unknown'] += 1
  note = '' if size == len(dataset) else f' (in a sample of {size})'
  return _most_common(speakers) + note, _most_common(languages) + note


def _most_common(counts: collections.Counter[str]) -> str:
  common = counts.most_common(MAX_NAMES)
  text = ', '.join(f'{name} {count}' for name, count in common)
  others = len(counts) - MAX_NAMES
  return text + (f' and {others} others' if others > 0 else '')


def histogram(seconds: np.ndarray) -> list[tuple[str, int]]:
  """Return (range, count) of lengths, in at most MAX_BINS ranges of a round width."""
  longest = float(seconds.max())
  widths = (base * 10.0**power for power in range(-2, 9) for base in (1, 2, 5))
  width = next(width for width in widths if width * MAX_BINS >= longest)
  bins = np.minimum(seconds // width, MAX_BINS - 1).astype(int)
  names = [f'{i * width:g} to {(i + 1) * width:g} s' for i in range(bins.max() + 1)]
  return list(zip(names, np.bincount(bins).tolist(), strict=True))


def find_faults(folder: Path) -> Iterator[str]:
  """Yield a message for each shard that has changed and each unreadable record."""
  shards = list_shards(folder)
  sizes = [s.path.stat().st_size if s.path.is_file() else 0 for s in shards]
  with progress('checksums, MB', sum(sizes) // BLOCK_BYTES + 1) as advance:
    for shard in shards:
      try:
        sha256 = _sha256(shard.path, advance)
      except OSError as error:
        yield f'{shard.path}: cannot be read ({error.strerror})'
        continue
      if sha256 != shard.sha256:
        yield f'{shard.path}: sha256 is {sha256}, but {shard.sha256} in dataset.json'
  dataset = records.Dataset(folder)
  with progress('records', len(dataset)) as advance:
    for start in range(0, len(dataset), READ_BATCH):
      indices = range(start, min(start + READ_BATCH, len(dataset)))
      yield from _record_faults(dataset, indices)
      advance(len(indices))


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
  """Return the checksum of a large file, reporting progress in blocks."""
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(BLOCK_BYTES):
      digest.update(block)
      advance(len(block) // BLOCK_BYTES)
  return digest.hexdigest()


def _record_faults(dataset: records.Dataset, indices: Sequence[int]) -> Iterator[str]:
  """Yield a message for each record that cannot be read or contradicts the index."""
  try:
    utterances = dataset.__getitems__(indices)
  except records.RecordError as error:
    if len(indices) == 1:
      yield str(error)
    else:  # read one by one to find each broken record
      for index in indices:
        yield from _record_faults(dataset, [index])
    return
  for index, utterance in zip(indices, utterances, strict=True):
    if utterance['text'] != dataset.texts[index]:
      yield f'number {index}, id {utterance["id"]!r}: text differs from index.jsonl'


def main(argv: Sequence[str]) -> None:
  """Print what the flags ask for."""
  folder, args = require_local(argv[1], 'DIR'), flags.FLAGS
  console = Console(highlight=False)
  if args.record is None and (args.wav or args.play or args.plot):
    raise ValueError('--wav, --play and --plot require --record=ID_OR_NUMBER')
  if args.check:
    num_faults = 0
    for fault in find_faults(folder):
      num_faults += 1
      console.print(Text(printable(f'broken: {fault}')), soft_wrap=True)
    if num_faults:
      raise ValueError(f'{folder}: {num_faults} faults, listed above')
    console.print('check: all checksums and records are correct')
  dataset = records.Dataset(folder)
  if args.record is not None:
    utterance = single_record.find_utterance(dataset, args.record)
    print_fields(console, single_record.describe(utterance))
    single_record.render(utterance['audio'], args.wav, args.play, args.plot)
  elif not args.check:
    print_fields(console, summarize(folder, dataset))
    print_histogram(console, histogram(dataset.seconds))


if __name__ == '__main__':
  flags.DEFINE_bool('check', False, 'verify all checksums and records')
  flags.DEFINE_string('record', None, 'id or number of one record to show')
  flags.DEFINE_string('wav', None, 'write the audio of --record to this file')
  flags.DEFINE_bool('play', False, 'play the audio of --record')
  flags.DEFINE_string('plot', None, 'plot waveform and log-mel of --record to this PNG')
  program.run(main, 'DIR')
