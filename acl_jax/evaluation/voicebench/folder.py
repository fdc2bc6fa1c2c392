# SPDX-License-Identifier: Apache-2.0
"""A local copy of VoiceBench: a folder per subset, as its publisher lays it out.

Either Parquet shards, `SUBSET/SPLIT-00000-of-00002.parquet`, or JSON lines,
`SUBSET/SPLIT.jsonl`, whose `audio` is a path within the folder of the subset.
"""

import collections
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.evaluation.voicebench.subsets import SUBSETS, Subset, text_of
from data_pipeline import parquet
from data_pipeline.corpora import manifest
from data_pipeline.corpora.manifest import LineError, shorten
from data_pipeline.corpora.utterance import BadUtterance, Utterance, resolve_inside
from data_pipeline.corpora.walk import is_metadata

MAX_SHARDS = 1_000
MAX_JSON_BYTES = 256 << 20  # of a file of JSON lines
_SHARD = re.compile(r'(.+)-([0-9]{5})-of-([0-9]{5})\.parquet')


class Row(NamedTuple):
  """A row: its split, what is spoken, and the columns of text."""

  split: str
  utterance: Utterance
  values: dict[str, Any]


def find_subsets(folder: Path) -> list[Subset]:
  """Return the subsets that a copy has; ValueError if it has none."""
  found = [subset for subset in SUBSETS.values() if (folder / subset.name).is_dir()]
  if not found:
    raise ValueError(
      f'{folder}: is not a copy of VoiceBench: it has none of the folders '
      f'{", ".join(SUBSETS)}'
    )
  return found


def read_subset(folder: Path, subset: Subset) -> Iterator[Row | BadUtterance]:
  """Yield the rows of a subset in order, bad ones with the reason.

  ValueError, before the first row, if a shard is missing or damaged, or if columns or
  numbers of rows are not those of the version that is scored here.
  """
  path = folder / subset.name
  if not path.is_dir():
    raise ValueError(f'{path}: is missing')
  if shards := find_shards(path):
    _check_version(path, subset, shards)
    return _read_shards(path, subset, shards)
  files = sorted(f for f in path.glob('*.jsonl') if not is_metadata(f.name))
  if not files:
    raise ValueError(
      f'{path}: has neither SPLIT-00000-of-00001.parquet nor SPLIT.jsonl'
    )
  _check_lines(path, subset, files)
  return (row for file in files for row in _read_lines(file, subset))


def find_shards(path: Path) -> dict[str, list[Path]]:
  """Return the shards of each split in order; ValueError if one is missing."""
  numbers: dict[tuple[str, int], dict[int, Path]] = collections.defaultdict(dict)
  for file in sorted(path.iterdir()):
    if match := _SHARD.fullmatch(file.name):
      numbers[match[1], int(match[3])][int(match[2])] = file
  shards = {}
  for (split, count), files in numbers.items():
    if count > MAX_SHARDS:
      raise ValueError(f'{path}: {split} has {count} shards; the limit is {MAX_SHARDS}')
    missing = [number for number in range(count) if number not in files]
    if missing or len(files) != count or split in shards:
      which = f'{split}-{missing[0] if missing else 0:05}-of-{count:05}.parquet'
      raise ValueError(f'{path}: {which} is missing, or two copies are mixed')
    shards[split] = [files[number] for number in range(count)]
  return shards


def _check_version(path: Path, subset: Subset, shards: dict[str, list[Path]]) -> None:
  rows = {}
  for split, files in shards.items():
    rows[split] = 0
    for file in files:
      columns, count = parquet.read_schema(file)
      _check_columns(file, subset, columns)
      rows[split] += count
  _check_counts(path, subset, rows)


def _check_columns(file: Path, subset: Subset, columns: list[str]) -> None:
  missing = [column for column in subset.columns if column not in columns]
  if missing:
    raise ValueError(
      f'{file}: is another version of VoiceBench: {subset.name} has no column '
      f'{missing[0]!r}'
    )


def _check_counts(path: Path, subset: Subset, rows: dict[str, int]) -> None:
  counts = rows if subset.by_split else {'': sum(rows.values())}
  for split, count in counts.items():
    if count != subset.rows:
      name = f'{subset.name} {split}'.strip()
      raise ValueError(
        f'{path}: is another version of VoiceBench: {name} has {count} rows, not '
        f'{subset.rows}'
      )


def _check_lines(path: Path, subset: Subset, files: list[Path]) -> None:
  rows = {}
  for file in files:
    if (size := file.stat().st_size) > MAX_JSON_BYTES:
      raise ValueError(f'{file}: has {size} bytes; the limit is {MAX_JSON_BYTES}')
    with file.open('rb') as lines:
      rows[file.stem] = sum(bool(line.strip()) for line in lines)
  _check_counts(path, subset, rows)


def _read_shards(
  path: Path, subset: Subset, shards: dict[str, list[Path]]
) -> Iterator[Row | BadUtterance]:
  columns = [column for column in subset.columns if column != 'audio']
  for split, files in shards.items():
    number = 0
    for file in files:
      for group, row, values in parquet.read_rows(file, columns):
        id = f'{subset.name}/{split}/{number}'
        number += 1
        try:
          text = text_of(values, 'prompt')
          utterance = Utterance(id, file, text, row=(group, row, 'audio'))
        except LineError as error:
          yield BadUtterance(id, error.field, f'{file} row {number}: {error}')
          continue
        yield Row(split, utterance, values)


def _read_lines(file: Path, subset: Subset) -> Iterator[Row | BadUtterance]:
  folder, numbers = file.parent.resolve(), iter(range(MAX_JSON_BYTES))

  def parse(values: dict[str, Any]) -> Row:
    id = f'{subset.name}/{file.stem}/{next(numbers)}'
    source = values.get('audio')
    name = source.get('path') if isinstance(source, dict) else source
    if not isinstance(name, str) or not name:
      raise LineError('audio', f'is {shorten(source)}, not a path')
    try:
      audio = resolve_inside(folder, name)
    except ValueError as error:
      raise LineError('audio', f'{shorten(name)} {error}') from None
    return Row(file.stem, Utterance(id, audio, text_of(values, 'prompt')), values)

  return manifest.read_lines(file, parse)
