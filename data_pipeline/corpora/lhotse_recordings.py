# SPDX-License-Identifier: Apache-2.0
"""Where the audio of Lhotse's recordings is: a file, or a member of a tar of Shar."""

import os
import pathlib
from typing import Any

from data_pipeline.corpora import manifest
from data_pipeline.corpora.manifest import LineError, shorten
from data_pipeline.corpora.tar_members import TAR_ERRORS, list_members
from data_pipeline.corpora.utterance import resolve_inside

MAX_MEMBERS = 1_000_000  # of a tar, whose names are in memory; Shar writes 1,000 each
_IN_SHAR = 'shar'  # type of a source that stands for a member of the tar
_UNCHANGED = ('Resample',)  # transforms that leave the audio as it is


class Shar:
  """The recordings of a shard: members `CUT_ID.flac`, each before its `CUT_ID.json`.

  ValueError if the tar is damaged.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._spans: dict[str, tuple[int, int] | None] = {}  # None if it occurs twice
    try:
      for name, offset, size in list_members(self.path):
        id, _, extension = name.rpartition('.')
        if extension not in ('json', 'nodata', 'nometa'):
          self._spans[id] = None if id in self._spans else (offset, size)
        if len(self._spans) > MAX_MEMBERS:
          raise ValueError(f'has more than {MAX_MEMBERS} members')
    except TAR_ERRORS as error:
      raise ValueError(f'{path}: {str(error)[:200]}; fetch it again') from None

  def has_source(self, cut: dict[str, Any]) -> bool:
    """Return whether the audio of a cut is in the tar and not in a file."""
    return any(source.get('type') == _IN_SHAR for source in _list_sources(cut))

  def find(self, id: str) -> tuple[pathlib.Path, tuple[int, int]]:
    """Return the tar, and offset and size of the audio of a cut; LineError."""
    if id not in self._spans:
      raise LineError('recording', f'of {shorten(id)} is not in {self.path.name}')
    if (span := self._spans[id]) is None:
      raise LineError('recording', f'{shorten(id)} occurs twice in {self.path.name}')
    return self.path, span


def _list_sources(cut: dict[str, Any]) -> list[dict[str, Any]]:
  recording = cut.get('recording')
  if not isinstance(recording, dict):
    raise LineError('recording', f'is {shorten(recording)}, not an object')
  transforms = recording.get('transforms') or []
  for transform in transforms if isinstance(transforms, list) else [transforms]:
    name = transform.get('name') if isinstance(transform, dict) else transform
    if name not in _UNCHANGED:
      raise LineError('transforms', f'have {shorten(name)}, which Lhotse would apply')
  sources = recording.get('sources')
  if not isinstance(sources, list) or not all(isinstance(s, dict) for s in sources):
    raise LineError('sources', f'are {shorten(sources)}, not a list of objects')
  return sources


def find_source(
  cut: dict[str, Any], folder: pathlib.Path, contained: bool
) -> pathlib.Path:
  """Return the file with the audio of a cut; LineError if there is none.

  A relative path starts at the folder of the manifest and stays in it.
  """
  source = _choose_source(cut)
  kind, name = source.get('type'), manifest.required_string(source, 'source')
  if kind == 'command':
    problem = f'is a command, {shorten(name)}, which is not run; write a file'
    raise LineError('source', problem)
  if kind != 'file':
    raise LineError('source', f'is of type {shorten(kind)}, and not a file')
  root = pathlib.Path('/') if os.path.isabs(name) and not contained else folder
  try:
    return resolve_inside(root, name, follow_links=not contained)
  except ValueError as error:
    raise LineError('source', f'{shorten(name)} {error}') from None


def _choose_source(cut: dict[str, Any]) -> dict[str, Any]:
  """Return the source that has the channels of a cut, and no others."""
  sources, wanted = _list_sources(cut), cut.get('channel', 0)
  channels = wanted if isinstance(wanted, list) else [wanted]
  for source in sources:
    if source.get('channels') == channels:
      return source
  available = [source.get('channels') for source in sources]
  raise LineError(
    'channel',
    f'is {shorten(wanted)}, but the files have the channels {available!r:.99}',
  )


def parse_seconds(
  entry: dict[str, Any], key: str, default: float | None = None
) -> float:
  """Return a finite number of an entry, or else the default; LineError."""
  value = default if entry.get(key) is None else entry[key]
  if value is None:
    raise LineError(key, 'is missing')
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number or not abs(value) < 1e9:  # NaN compares false
    raise LineError(key, f'is {shorten(value)}, not a number of seconds')
  return float(value)
