# SPDX-License-Identifier: Apache-2.0
"""Mozilla Common Voice, extracted: `de/train.tsv` and the audio in `de/clips`.

The path is a table (`de/dev.tsv`), or the folder of a language for its `train.tsv`.
Columns are found by name: their order and number differ between releases.
"""

import csv
import os
import pathlib
from collections.abc import Iterator

from data_pipeline.corpora import text_files
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

_REQUIRED = ('path', 'sentence')


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the lines; the speaker is the `client_id`.

  contained: clips that are links to somewhere else are refused.
  """
  table = path / 'train.tsv' if path.is_dir() else path
  if table.suffix != '.tsv' or not table.is_file():
    raise ValueError(f'{table}: is not a Common Voice table (.tsv)')
  clips = (table.parent / 'clips').resolve()
  lang = pathlib.Path(os.path.abspath(table)).parent.name
  lines = text_files.read_lines(table)
  header = _read_header(table, next(lines, b''))
  for number, line in enumerate(lines, 2):
    if not line.strip():
      continue
    try:
      yield _make_utterance(_parse_row(line, header), clips, lang, not contained)
    except ValueError as error:
      reason = f'{table} line {number}: {error}'
      field = str(error).partition(' ')[0]
      yield BadUtterance(f'{table.name}:{number}', field, reason)


def _read_header(table: pathlib.Path, line: bytes) -> list[str]:
  try:
    header = _split_line(line)
  except ValueError as error:
    raise ValueError(f'{table} line 1: {error}') from None
  if missing := [name for name in _REQUIRED if name not in header]:
    raise ValueError(f'{table} line 1: column {missing[0]!r} is missing')
  return header


def _parse_row(line: bytes, header: list[str]) -> dict[str, str]:
  fields = _split_line(line)
  if len(fields) != len(header):  # a tab in a sentence would shift the others
    raise ValueError(f'line has {len(fields)} columns, the first has {len(header)}')
  return dict(zip(header, fields, strict=True))


def _split_line(line: bytes) -> list[str]:
  """Split a line into columns; ValueError if it is not valid."""
  try:
    text = line.decode().rstrip('\r\n')
  except UnicodeDecodeError:
    raise ValueError('line is not UTF-8') from None
  if '\0' in text:
    raise ValueError('line has a NUL character')
  try:
    return next(csv.reader([text], delimiter='\t', quoting=csv.QUOTE_NONE), [])
  except csv.Error as error:
    raise ValueError(f'line is not a table row ({error})') from None


def _make_utterance(
  row: dict[str, str], clips: pathlib.Path, lang: str, follow_links: bool
) -> Utterance:
  if not (name := row['path']):
    raise ValueError('path is missing')
  try:
    name = name if name.endswith('.mp3') else f'{name}.mp3'
    audio = resolve_inside(clips, name, follow_links)
  except ValueError as error:
    raise ValueError(f'path {name[:60]!r} {error}') from None
  named = audio if audio.is_relative_to(clips) else pathlib.PurePath(name)
  return Utterance(
    named.stem,
    audio,
    row['sentence'].strip(),
    speaker=row.get('client_id') or None,
    lang=row.get('locale') or lang,
  )
