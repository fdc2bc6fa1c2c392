# SPDX-License-Identifier: Apache-2.0
"""A data folder of Kaldi: `wav.scp`, `text`, and optionally `segments`, `utt2spk`.

`wav.scp` names files: commands that end in `|` are refused and never run, as are
positions in archives (`wav.ark:1234`). A relative path starts at the data folder. With
`segments` an utterance is a part of a recording, in seconds; without it, all of it.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline.corpora import text_files
from data_pipeline.corpora.lookup import Lookup
from data_pipeline.corpora.manifest import LineError, shorten
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

_IN_ARCHIVE = re.compile(r'.*\.ark:[0-9]+')
MAX_SECONDS = 1e9


class _Segment(NamedTuple):
  id: str
  recording: str
  stretch: tuple[float, float] | None = None


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of `segments`, or else of `wav.scp`.

  contained: recordings outside of the folder are refused. FileNotFoundError if one of
  the required files is missing.
  """
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  for name in ('wav.scp', 'text'):
    if not (path / name).is_file():
      raise FileNotFoundError(f'{path / name}: is missing; is this a Kaldi folder?')
  with contextlib.ExitStack() as stack:
    recordings, texts, speakers = (
      stack.enter_context(contextlib.closing(Lookup())) for _ in range(3)
    )
    yield from _fill(recordings, path / 'wav.scp')
    yield from _fill(texts, path / 'text')
    yield from _fill(speakers, path / 'utt2spk')
    for segment in _read_segments(path, recordings):
      if isinstance(segment, BadUtterance):
        texts.pop(segment.id)
        yield segment
        continue
      try:
        audio = _find_audio(path.resolve(), recordings, segment, contained)
        if (text := texts.pop(segment.id)) is None:
          raise LineError(
            'text', 'is missing: it has no line in text, or an earlier segment'
          )
        speaker = speakers.get(segment.id)
        yield Utterance(segment.id, audio, text, speaker, stretch=segment.stretch)
      except LineError as error:
        texts.pop(segment.id)
        reason = f'{path}: {shorten(segment.id)}: {error}'
        yield BadUtterance(segment.id, error.field, reason)
    for id, _ in texts.items():
      problem = f'{path / "text"}: {shorten(id)} has a text, but no recording'
      yield BadUtterance(id, 'text', problem)


def _fill(lookup: Lookup, path: pathlib.Path) -> Iterator[BadUtterance]:
  """Add the lines of a table, of which a missing one is empty; yields bad lines."""
  for number, fields in _read_table(path):
    if isinstance(fields, BadUtterance):
      yield fields
    elif not lookup.add(fields[0], fields[1] if len(fields) > 1 else ''):
      reason = f'{path} line {number}: {shorten(fields[0])} occurs more than once'
      yield BadUtterance(f'{path.name}:{number}', path.name, reason)


def _read_table(
  path: pathlib.Path, columns: int = 2
) -> Iterator[tuple[int, list[str] | BadUtterance]]:
  """Yield numbers and fields of the lines, of which the last has all that is left."""
  if not path.exists():
    return
  for number, line in enumerate(text_files.read_lines(path), 1):
    try:
      fields = line.decode().split(maxsplit=columns - 1)
    except UnicodeDecodeError:
      reason = f'{path} line {number}: is not UTF-8'
      yield number, BadUtterance(f'{path.name}:{number}', path.name, reason)
      continue
    if fields:
      yield number, [*fields[:-1], fields[-1].strip()]


def _read_segments(
  path: pathlib.Path, recordings: Lookup
) -> Iterator[_Segment | BadUtterance]:
  table = path / 'segments'
  if not table.exists():
    yield from (_Segment(id, id) for id, _ in recordings.items())
    return
  for number, fields in _read_table(table, 6):
    if isinstance(fields, BadUtterance):
      yield fields
      continue
    try:
      yield _parse_segment(fields)
    except LineError as error:
      yield BadUtterance(fields[0], error.field, f'{table} line {number}: {error}')


def _parse_segment(fields: list[str]) -> _Segment:
  if len(fields) != 4:
    problem = f'has {len(fields)} fields, not utterance, recording, start and end'
    if len(fields) == 5:
      problem += '; a channel cannot be chosen, so write one file per channel'
    raise LineError('segments', problem)
  times = []
  for field in fields[2:]:
    try:
      times.append(float(field))
    except ValueError:
      raise LineError('segments', f'has {shorten(field)}, not seconds') from None
  start, end = times
  if (start, end) == (0, -1):  # -1 stands for the end of the recording
    return _Segment(fields[0], fields[1])
  if not 0 <= start < end < MAX_SECONDS:
    raise LineError('segments', f'is from {start:g} s to {end:g} s')
  return _Segment(fields[0], fields[1], (start, end - start))


def _find_audio(
  folder: pathlib.Path, recordings: Lookup, segment: _Segment, contained: bool
) -> pathlib.Path:
  name = recordings.get(segment.recording)
  if name is None:
    problem = f'has no recording {shorten(segment.recording)}'
    raise LineError('wav.scp', problem)
  shown = shorten(name)
  if name.startswith('|') or name.endswith('|'):
    problem = f'has a command, {shown}, which is not run; write its output to a file'
    raise LineError('wav.scp', problem)
  if name in ('', '-') or _IN_ARCHIVE.fullmatch(name):
    raise LineError('wav.scp', f'has {shown}, which is not a file')
  root = pathlib.Path('/') if os.path.isabs(name) and not contained else folder
  try:
    return resolve_inside(root, name, follow_links=not contained)
  except ValueError as error:
    raise LineError('wav.scp', f'has {shown}, which {error}') from None
