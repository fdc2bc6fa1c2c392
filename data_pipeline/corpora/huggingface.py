# SPDX-License-Identifier: Apache-2.0
"""A split of a data set in Parquet, as Hugging Face `datasets` writes and publishes it.

The path is a Parquet file, a folder with those of one split at any depth, or a split:
`speech/data/train` is `speech/data/train-00000-of-00002.parquet` and its other shards.
A column `audio`, or else the only such column, is a struct of `bytes` and `path`; the
columns of the text, its speaker and its language are found by name (`columns.py`). A
column `id` of strings or numbers names the utterances; by default, the file and the
row do.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline import parquet
from data_pipeline.corpora import columns
from data_pipeline.corpora.manifest import LineError, required_string
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
)
from data_pipeline.corpora.walk import resolve_archive, walk

_SHARD = re.compile(r'(.+)-([0-9]{5})-of-([0-9]{5})(-[0-9a-f]{16})?\.parquet')
_SPLITS = {'train', 'validation', 'valid', 'val', 'dev', 'test', 'eval'}
MAX_FILES = 100_000  # of a folder, whose paths are in memory


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the files and rows.

  contained: files that are links to somewhere else are refused. ValueError if the path
  has several splits, if a shard is missing, or for a file that cannot be read or has no
  audio or text.
  """
  files = _list_files(path, contained)
  if not path.is_file():
    _check_shards(files)
  for file in files:
    shard = resolve_archive(path, file, contained)
    name = file.relative_to(path if path.is_dir() else path.parent).with_suffix('')
    yield from _read_file(shard, name.as_posix())


def _list_files(path: pathlib.Path, contained: bool) -> list[pathlib.Path]:
  """Return the files of one split, by name."""
  if path.is_file():
    return [path]
  if not path.is_dir():
    found = sorted(path.parent.glob('*.parquet'))
    if files := [file for file in found if _split_of(file) == path]:
      return files
    raise FileNotFoundError(f'{path}: is no file, no folder and no split')
  files: list[pathlib.Path] = []
  suffixes = set()
  for file in walk(path, contained):
    suffixes.add(file.suffix)
    if file.suffix == '.parquet':
      files.append(file)
    if len(files) > MAX_FILES:
      raise ValueError(f'{path}: has more than {MAX_FILES} Parquet files')
  if not files:
    advice = '; write it with Dataset.to_parquet' if '.arrow' in suffixes else ''
    raise ValueError(f'{path}: has no .parquet files{advice}')
  splits = sorted({str(_split_of(file)) for file in files})
  if len(splits) > 1:
    listed = ', '.join(splits[:20])
    raise ValueError(f'{path}: has {len(splits)} splits; choose one: --input={listed}')
  return files


def _split_of(file: pathlib.Path) -> pathlib.Path:
  """Return the path that stands for a file and the others of its split."""
  if match := _SHARD.fullmatch(file.name):
    return file.with_name(match[1])
  return file.with_suffix('') if file.stem in _SPLITS else file.parent


def _check_shards(files: Sequence[pathlib.Path]) -> None:
  """Raise ValueError if one of the numbered files of a split is missing."""
  matches = [match for file in files if (match := _SHARD.fullmatch(file.name))]
  present = {int(match[2]) for match in matches}
  for match in matches:
    total = int(match[3])
    if len(present) != total or max(present) >= total or len(matches) != total:
      lacking = next((n for n in range(total) if n not in present), total)
      raise ValueError(
        f'{files[0].parent}: {match[1]} has {len(matches)} of {total} shards; number '
        f'{lacking} is missing, or two versions are mixed'
      )


def _read_file(path: pathlib.Path, name: str) -> Iterator[AnyUtterance]:
  audio, others = _choose_columns(path)
  number = 0
  for group, row, values in parquet.read_rows(path, others):
    default = f'{name}-{number}'
    number += 1
    try:
      id = _find_id(values, default)
      utterance = columns.make_utterance(values, id, path)
      yield dataclasses.replace(utterance, row=(group, row, audio))
    except LineError as error:
      yield BadUtterance(default, error.field, f'{path} row {number}: {error}')


def _find_id(values: dict[str, Any], default: str) -> str:
  id = values.get('id')
  if isinstance(id, str | int) and not isinstance(id, bool) and id != '':
    return required_string({'id': str(id)}, 'id')
  return default


def _choose_columns(path: pathlib.Path) -> tuple[str, list[str]]:
  """Return the column of audio and the others to read; ValueError if one is missing."""
  import pyarrow  # slow to import

  with parquet.open_file(path) as file:
    schema = file.schema_arrow
  names = [name for name in schema.names if schema.names.count(name) == 1]
  has = f'it has {", ".join(schema.names)[:200]}'
  structs = [
    name
    for name in names
    if pyarrow.types.is_struct(kind := schema.field(name).type)
    and any(kind.field(index).name == 'bytes' for index in range(kind.num_fields))
  ]
  audio = 'audio' if 'audio' in structs else structs[0] if len(structs) == 1 else None
  if audio is None:
    wanted = 'audio, a struct of bytes and path'
    raise ValueError(f'{path}: has no column {wanted}; {has}')
  if columns.find(columns.TEXT, names) is None:
    wanted = ', '.join(columns.TEXT)
    raise ValueError(f'{path}: has no column of text ({wanted}); {has}')
  tables = (('id',), columns.TEXT, columns.SPEAKER, columns.LANG)
  found = (columns.find(table, names) for table in tables)
  return audio, [name for name in found if name is not None]
