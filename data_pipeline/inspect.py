# SPDX-License-Identifier: Apache-2.0
"""Program: what is inside a prepared folder of speech, and whether it is whole.

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
from acl_jax.runtime.progress import progress
from acl_jax.runtime.terminal import print_fields, print_histogram, printable
from data_pipeline import records, single_record

SAMPLE = 300  # records that are read to count speakers and languages
BINS = 12  # of the histogram, at most
BATCH = 8  # records that are held at a time
BLOCK = 1 << 20  # bytes
NAMED = 8  # speakers or languages


class Shard(NamedTuple):
  """A shard as `dataset.json` has it."""

  path: Path
  sha256: str


def shards(folder: Path) -> list[Shard]:
  """The shards that `dataset.json` names; RecordError if it does not."""
  path = folder / 'dataset.json'
  try:
    entries = json.loads(path.read_text())['shards']
    found = [Shard(folder / Path(e['file']).name, str(e['sha256'])) for e in entries]
  except FileNotFoundError:
    raise FileNotFoundError(f'{path}: not found; is this a prepared folder?') from None
  except (ValueError, KeyError, TypeError) as error:
    raise records.RecordError(f'{path}: cannot be read ({error!r})') from None
  return found


def facts(folder: Path, dataset: records.Dataset) -> dict[str, str]:
  """What a prepared folder holds, each fact with its name."""
  seconds, texts = dataset.seconds, dataset.texts
  total = max(float(seconds.sum(dtype=np.float64)), 1e-9)
  characters, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
  sizes = [shard.path.stat().st_size / 1e6 for shard in shards(folder)]
  skipped = dataset.info.get('skipped_by_field') or {}
  reasons = ''.join(f', {count} by {field}' for field, count in skipped.items())
  return {
    'utterances': f'{len(dataset):,}',
    'hours': f'{total / 3600:,.2f}',
    'seconds': f'{np.mean(seconds):.1f} on average, {np.min(seconds):.1f} to '
    f'{np.max(seconds):.1f}, the median {np.median(seconds):.1f}',
    'characters': f'{characters:,}, {characters / total:.1f} per second',
    'words': f'{words:,}, {words / total:.1f} per second',
    **_who(dataset),
    'skipped': f'{sum(skipped.values()):,}{reasons}',
    'shards': f'{len(sizes):,} of {min(sizes):,.1f} to {max(sizes):,.1f} MB, '
    f'{sum(sizes):,.1f} MB together',
  }


def _who(dataset: records.Dataset) -> dict[str, str]:
  """Speakers and languages: of all records if they are few, else of a sample."""
  size = min(len(dataset), SAMPLE)
  chosen = np.linspace(0, len(dataset) - 1, size).astype(int).tolist()
  counts = {'speaker': collections.Counter(), 'lang': collections.Counter()}
  for start in range(0, size, BATCH):
    for utterance in dataset.__getitems__(chosen[start : start + BATCH]):
      for field, count in counts.items():
        count[utterance[field] or 'not said'] += 1
  told = '' if size == len(dataset) else f' (in a sample of {size})'
  return {
    'speakers': _most_common(counts['speaker']) + told,
    'languages': _most_common(counts['lang']) + told,
  }


def _most_common(counts: collections.Counter[str]) -> str:
  named = ', '.join(f'{name} {count}' for name, count in counts.most_common(NAMED))
  others = len(counts) - NAMED
  return named + (f' and {others} others' if others > 0 else '')


def histogram(seconds: np.ndarray) -> list[tuple[str, int]]:
  """(range, count) of lengths, in at most BINS ranges of a round width."""
  longest = float(seconds.max())
  widths = (base * 10.0**power for power in range(-2, 9) for base in (1, 2, 5))
  width = next(width for width in widths if width * BINS >= longest)
  bins = np.minimum(seconds // width, BINS - 1).astype(int)
  names = [f'{i * width:g} to {(i + 1) * width:g} s' for i in range(bins.max() + 1)]
  return list(zip(names, np.bincount(bins).tolist(), strict=True))


def check(folder: Path) -> Iterator[str]:
  """Yields what is wrong: each shard that changed, each record that cannot be read."""
  named = shards(folder)
  sizes = [s.path.stat().st_size if s.path.is_file() else 0 for s in named]
  with progress('checksums, MB', sum(sizes) // BLOCK + 1) as advance:
    for shard in named:
      try:
        found = _sha256(shard.path, advance)
      except OSError as error:
        yield f'{shard.path}: cannot be read ({error.strerror})'
        continue
      if found != shard.sha256:
        yield f'{shard.path}: sha256 is {found}, {shard.sha256} in dataset.json'
  dataset = records.Dataset(folder)
  with progress('records', len(dataset)) as advance:
    for start in range(0, len(dataset), BATCH):
      places = range(start, min(start + BATCH, len(dataset)))
      yield from _broken(dataset, places)
      advance(len(places))


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while block := file.read(BLOCK):
      digest.update(block)
      advance(len(block) // BLOCK)
  return digest.hexdigest()


def _broken(dataset: records.Dataset, places: Sequence[int]) -> Iterator[str]:
  try:
    utterances = dataset.__getitems__(places)
  except records.RecordError as error:
    if len(places) == 1:
      yield str(error)
    else:  # one by one, to name each that is broken
      for place in places:
        yield from _broken(dataset, [place])
    return
  for place, utterance in zip(places, utterances, strict=True):
    if utterance['text'] != dataset.texts[place]:
      yield f'number {place}, id {utterance["id"]!r}: text is not that of index.jsonl'


def main(argv: Sequence[str]) -> None:
  """Prints what the flags ask for."""
  folder, given = Path(argv[1]), flags.FLAGS
  console = Console(highlight=False)
  if given.record is None and (given.wav or given.play or given.plot):
    raise ValueError('--wav, --play and --plot need a --record=ID_OR_NUMBER')
  if given.check:
    faults = 0
    for fault in check(folder):
      faults += 1
      console.print(Text(printable(f'broken: {fault}')), soft_wrap=True)
    if faults:
      raise ValueError(f'{folder}: {faults} faults, listed above')
    console.print('check: every checksum and every record is right')
  dataset = records.Dataset(folder)
  if given.record is not None:
    utterance = single_record.find(dataset, given.record)
    print_fields(console, single_record.facts(utterance))
    single_record.render(utterance['audio'], given.wav, given.play, given.plot)
  elif not given.check:
    print_fields(console, facts(folder, dataset))
    print_histogram(console, histogram(dataset.seconds))


if __name__ == '__main__':
  flags.DEFINE_bool('check', False, 'verify every checksum and every record')
  flags.DEFINE_string('record', None, 'id or number of one record to show')
  flags.DEFINE_string('wav', None, 'write the audio of --record to this file')
  flags.DEFINE_bool('play', False, 'play --record')
  flags.DEFINE_string('plot', None, 'draw waveform and log-mel of --record as a PNG')
  program.run(main, 'DIR')
