# SPDX-License-Identifier: Apache-2.0
"""Mozilla Common Voice as unpacked: `de/train.tsv` and the recordings in `de/clips`.

The path is a table (`de/dev.tsv`), or the folder of a language for its `train.tsv`.
Columns go by their names: their order and number differ between releases.
"""

import csv
import os
import pathlib
from collections.abc import Iterator

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance, inside

_REQUIRED = ('path', 'sentence')


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances in the order of the lines; the speaker is the `client_id`."""
  table = path / 'train.tsv' if path.is_dir() else path
  if table.suffix != '.tsv' or not table.is_file():
    raise ValueError(f'{table}: is not a table (.tsv) of Common Voice')
  clips = (table.parent / 'clips').resolve()
  lang = pathlib.Path(os.path.abspath(table)).parent.name
  with table.open('rb') as lines:
    header = _header(table, lines.readline())
    for number, line in enumerate(lines, 2):
      if not line.strip():
        continue
      try:
        yield _utterance(_row(line, header), clips, lang)
      except ValueError as error:
        reason = f'{table} line {number}: {error}'
        field = str(error).partition(' ')[0]
        yield BadUtterance(f'{table.name}:{number}', field, reason)


def _header(table: pathlib.Path, line: bytes) -> list[str]:
  try:
    header = _fields(line.removeprefix(b'\xef\xbb\xbf'))
  except ValueError as error:
    raise ValueError(f'{table} line 1: {error}') from None
  if missing := [name for name in _REQUIRED if name not in header]:
    raise ValueError(f'{table} line 1: there is no column {missing[0]!r}')
  return header


def _row(line: bytes, header: list[str]) -> dict[str, str]:
  fields = _fields(line)
  if len(fields) != len(header):  # a tab in a sentence would shift the others
    raise ValueError(f'line has {len(fields)} columns, the first has {len(header)}')
  return dict(zip(header, fields, strict=True))


def _fields(line: bytes) -> list[str]:
  """The columns of one line; ValueError where there is no telling."""
  try:
    text = line.decode().rstrip('\r\n')
  except UnicodeDecodeError:
    raise ValueError('line is not UTF-8') from None
  if '\0' in text:
    raise ValueError('line has a NUL character')
  try:
    return next(csv.reader([text], delimiter='\t', quoting=csv.QUOTE_NONE), [])
  except csv.Error as error:
    raise ValueError(f'line is no row of a table ({error})') from None


def _utterance(row: dict[str, str], clips: pathlib.Path, lang: str) -> Utterance:
  if not (name := row['path']):
    raise ValueError('path is missing')
  try:
    audio = inside(clips, name if name.endswith('.mp3') else f'{name}.mp3')
  except ValueError as error:
    raise ValueError(f'path {name[:60]!r} {error}') from None
  return Utterance(
    audio.stem,
    audio,
    row['sentence'].strip(),
    speaker=row.get('client_id') or None,
    lang=row.get('locale') or lang,
  )
