# SPDX-License-Identifier: Apache-2.0
"""Lhotse's manifests: cuts, recordings with supervisions, and Shar folders.

The path is a manifest of cuts (`cuts.jsonl.gz`) or of supervisions, which needs that of
the recordings beside it (`x_supervisions_y.jsonl.gz` and `x_recordings_y.jsonl.gz`), or
a folder with one of these. A Shar folder has the audio of `cuts.000000.jsonl.gz` in
`recording.000000.tar`. Every supervision is an utterance: its part of the cut. Commands
and addresses as sources are refused, and never run or opened.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from data_pipeline.corpora import manifest, text_files
from data_pipeline.corpora.lhotse_recordings import Shar, find_source, parse_seconds
from data_pipeline.corpora.lookup import Lookup
from data_pipeline.corpora.manifest import LineError, shorten
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance
from data_pipeline.corpora.walk import resolve_archive

_SUFFIXES = ('.jsonl', '.jsonl.gz')
_SHARD = re.compile(r'cuts\.([0-9]{1,9})\.jsonl(\.gz)?')
_CUTS = (None, 'MonoCut', 'MultiCut')
_WHOLE_SECONDS = 0.001  # by which a part may differ from all of a recording

Entry = dict[str, Any]
Parse = Callable[[Entry], list[AnyUtterance]]


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the manifest.

  contained: recordings outside of the folder are refused. ValueError for a path that is
  none of Lhotse's, or whose manifests are not JSON lines.
  """
  for file in _choose_manifests(path):
    folder = file.parent.resolve()
    if 'supervisions' in file.name:
      yield from _read_supervisions(file, folder, contained)
    else:
      cuts = _Cuts(folder, contained, _open_shar(file, contained))
      yield from _flatten(file, cuts.parse)


def _choose_manifests(path: pathlib.Path) -> list[pathlib.Path]:
  """Return the files to read, of cuts or of supervisions."""
  if path.is_file():
    if not path.name.endswith(_SUFFIXES):
      raise ValueError(f'{path}: is no .jsonl or .jsonl.gz; convert it: lhotse copy')
    return [path]
  if not path.is_dir():
    raise FileNotFoundError(f'{path}: is no file and no folder')
  files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
  if shards := [file for file in files if _SHARD.fullmatch(file.name)]:
    return shards
  for kind in ('cuts', 'supervisions'):
    found = [file for file in files if kind in file.name]
    if len(found) == 1:
      return found
    if found:
      listed = ', '.join(map(str, found[:20]))
      raise ValueError(f'{path}: has several manifests; choose one: --input={listed}')
  raise ValueError(f'{path}: has no cuts or supervisions in .jsonl or .jsonl.gz')


def _open_shar(cuts: pathlib.Path, contained: bool) -> Shar | None:
  """Return the tar with the recordings of a shard of cuts, if it has one."""
  match = _SHARD.fullmatch(cuts.name)
  tar = cuts.with_name(f'recording.{match[1]}.tar') if match else None
  if tar is None or not tar.exists():
    return None
  return Shar(resolve_archive(cuts.parent, tar, contained))


def _flatten(path: pathlib.Path, parse: Parse) -> Iterator[AnyUtterance]:
  """Yield what `parse` makes of the lines of a manifest."""
  read_lines = text_files.read_lines
  if path.suffix == '.gz':
    read_lines = text_files.read_gzip_lines
  for parsed in manifest.parse_lines(path, read_lines(path), parse):
    if isinstance(parsed, BadUtterance):
      yield parsed
    else:
      yield from parsed


def _read_supervisions(
  path: pathlib.Path, folder: pathlib.Path, contained: bool
) -> Iterator[AnyUtterance]:
  other = path.with_name(path.name.replace('supervisions', 'recordings'))
  if not other.is_file():
    raise FileNotFoundError(f'{path}: needs the recordings in {other.name} beside it')
  with contextlib.closing(Lookup()) as recordings:

    def add(entry: Entry) -> list[AnyUtterance]:
      id = manifest.required_string(entry, 'id')
      if not recordings.add(id, json.dumps(entry)):
        raise LineError('id', f'{shorten(id)} occurs more than once')
      return []

    def parse(entry: Entry) -> list[AnyUtterance]:
      id = manifest.required_string(entry, 'recording_id')
      if (recording := recordings.get(id)) is None:
        raise LineError('recording_id', f'{shorten(id)} is not in {other.name}')
      source = json.loads(recording)
      cut = {'id': id, 'start': 0, 'recording': source, 'supervisions': [entry]}
      cut |= {'duration': source.get('duration'), 'channel': entry.get('channel', 0)}
      return [_name(cuts.make(cut, entry), entry)]

    cuts = _Cuts(folder, contained, None)
    yield from _flatten(other, add)
    yield from _flatten(path, parse)


class _Cuts:
  """Makes utterances of cuts, of which a Shar folder has the audio in a tar."""

  def __init__(self, folder: pathlib.Path, contained: bool, shar: Shar | None):
    self._folder, self._contained, self._shar = folder, contained, shar

  def parse(self, cut: Entry) -> list[AnyUtterance]:
    """Return an utterance for every supervision of a cut; LineError."""
    if (kind := cut.get('type')) not in _CUTS:
      raise LineError('type', f'is {shorten(kind)}; its audio is computed by Lhotse')
    id = manifest.required_string(cut, 'id')
    supervisions = cut.get('supervisions')
    if not isinstance(supervisions, list) or not supervisions:
      raise LineError('supervisions', f'of {shorten(id)} are missing')
    found: list[AnyUtterance] = []
    for supervision in supervisions:
      try:
        utterance = self.make(cut, supervision)
        several = len(supervisions) > 1
        found.append(_name(utterance, supervision) if several else utterance)
      except LineError as error:
        found.append(BadUtterance(id, error.field, f'{self._folder}: {id}: {error}'))
    return found

  def make(self, cut: Entry, supervision: Any) -> Utterance:
    """Return the utterance of a supervision, with the id of the cut; LineError."""
    if not isinstance(supervision, dict):
      raise LineError('supervisions', f'have {shorten(supervision)}, not an object')
    id = manifest.required_string(cut, 'id')
    text = manifest.required_string(supervision, 'text')
    stretch, is_whole = _find_stretch(cut, supervision)
    if self._shar and self._shar.has_source(cut):
      path, span = self._shar.find(id)
    else:
      path, span = find_source(cut, self._folder, self._contained), None
    return Utterance(
      id,
      path,
      text,
      speaker=manifest.optional_string(supervision, 'speaker'),
      lang=manifest.optional_string(supervision, 'language'),
      span=span,
      stretch=None if is_whole else stretch,
    )


def _name(utterance: Utterance, supervision: Entry) -> Utterance:
  id = manifest.required_string(supervision, 'id')
  return dataclasses.replace(utterance, id=id)


def _find_stretch(cut: Entry, supervision: Entry) -> tuple[tuple[float, float], bool]:
  """Return start and length in the recording, and whether this is all of it."""
  start, duration = parse_seconds(cut, 'start', 0.0), parse_seconds(cut, 'duration')
  first = max(0.0, parse_seconds(supervision, 'start', 0.0))
  length = parse_seconds(supervision, 'duration', duration)
  # Cuts may end within a supervision, and supervisions begin before the cut.
  end = min(duration, parse_seconds(supervision, 'start', 0.0) + length)
  if start < 0 or end <= first:
    raise LineError('duration', f'leaves nothing from {first:g} s to {end:g} s')
  recording = cut.get('recording')
  known = recording if isinstance(recording, dict) else {}
  whole = parse_seconds(known, 'duration', -1.0)
  is_whole = max(start + first, abs(end - first - whole)) < _WHOLE_SECONDS
  return (start + first, end - first), is_whole
