# SPDX-License-Identifier: Apache-2.0
"""NeMo's tarred corpora: a manifest beside `audio_0.tar`, `audio_1.tar`, …

The path is the folder, its manifest, or one shard: `manifest_3.json` or `audio_3.tar`,
if each tar has a manifest, beside it or in `sharded_manifests`.

A line of the manifest gives a member of a tar, by its name or as NeMo flattens names
(`a/b.wav` to `a_b.wav`, or `a_b-sub2.wav` for a further utterance of `a/b.wav`), and
optionally the number of the tar as `shard_id`. Nothing is extracted: tar headers give
the byte range of each member.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.corpora import manifest
from data_pipeline.corpora.tar_members import TAR_ERRORS, list_members
from data_pipeline.corpora.utterance import AnyUtterance, Utterance, resolve_inside
from data_pipeline.corpora.walk import is_metadata

_MANIFEST = 'tarred_audio_manifest.json'
_TAR = re.compile(r'audio_([0-9]{1,9})\.tar')
_SHARD = re.compile(r'(?:audio_([0-9]{1,9})\.tar)|(?:manifest_([0-9]{1,9})\.json)')
_SHARDED = 'sharded_manifests'

_Location = tuple[int, int, int]  # number of the tar, offset, size


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the manifest, after indexing its tars.

  contained: tars that are links to somewhere else are refused.
  """
  if path.is_dir():
    if not (path / _MANIFEST).is_file() and (shards := _shard_manifests(path)):
      parts = (read(shard, contained) for shard in shards)
      return itertools.chain.from_iterable(parts)
    return _read_manifest(_find_manifest(path), path, contained)
  if match := _SHARD.fullmatch(path.name):
    return _read_shard(path, int(match[1] or match[2]), contained)
  if path.suffix not in ('.json', '.jsonl') or not path.is_file():
    raise ValueError(f'{path}: is not a folder, a manifest or an audio_N.tar')
  return _read_manifest(path, path.parent, contained)


def _read_manifest(
  path: pathlib.Path, folder: pathlib.Path, contained: bool, only: int | None = None
) -> Iterator[AnyUtterance]:
  """Yield the utterances of a manifest, from all tars of a folder or from one."""
  tars = _TarIndex(folder.resolve(), contained, only)
  return manifest.read_lines(path, tars.make_utterance)


def _shard_manifests(folder: pathlib.Path) -> list[pathlib.Path]:
  """Return the manifests of single tars, by number."""
  paths = [*folder.glob('manifest_*.json'), *folder.glob(f'{_SHARDED}/manifest_*.json')]
  by_number = {int(m[2]): p for p in paths if (m := _SHARD.fullmatch(p.name))}
  return [path for _, path in sorted(by_number.items())]


def _read_shard(
  path: pathlib.Path, number: int, contained: bool
) -> Iterator[AnyUtterance]:
  """Yield the utterances of one tar; `path` is the tar or its manifest."""
  folder = path.parent
  folder = folder.parent if folder.name == _SHARDED else folder
  name = f'manifest_{number}.json'
  for candidate in (folder / name, folder / _SHARDED / name):
    if candidate.is_file():
      return _read_manifest(candidate, folder, contained, number)
  raise FileNotFoundError(f'{path}: has no {name} beside it or in {_SHARDED}')


def _find_manifest(folder: pathlib.Path) -> pathlib.Path:
  if (path := folder / _MANIFEST).is_file():
    return path
  paths = sorted(folder.glob('*.json')) + sorted(folder.glob('*.jsonl'))
  candidates = [p for p in paths if p.is_file() and not is_metadata(p.name)]
  if len(candidates) != 1:
    raise ValueError(
      f'{folder}: has no {_MANIFEST} and {len(candidates)} other .json or .jsonl files;'
      ' there must be exactly one'
    )
  return candidates[0]


class _TarIndex:
  """Locations of the members of a folder's tars, or of one, and errors in the tars."""

  def __init__(self, folder: pathlib.Path, contained: bool, only: int | None = None):
    self._paths: dict[int, pathlib.Path] = {}
    self._errors: dict[int, str] = {}
    # By name; also by tar and name if an earlier tar has a member of the same name.
    self._locations: dict[str | tuple[int, str], _Location] = {}
    for path in sorted(folder.glob('audio_*.tar')):
      match = _TAR.fullmatch(path.name)
      if match and only in (None, int(match[1])):
        self._paths[int(match[1])] = path
    for shard, path in sorted(self._paths.items()):
      try:
        self._add(shard, resolve_inside(folder, path, not contained))
      except TAR_ERRORS as error:
        self._errors[shard] = f'{path.name}: {str(error)[:200]}'

  def _add(self, shard: int, path: pathlib.Path) -> None:
    for name, offset, size in list_members(path):
      location = (shard, offset, size)
      if self._locations.setdefault(name, location)[0] != shard:
        self._locations.setdefault((shard, name), location)

  def make_utterance(self, entry: dict[str, Any]) -> Utterance:
    """Return the utterance of a manifest line; LineError if no tar has its audio."""
    name = manifest.required_string(entry, 'audio_filepath')
    shard = entry.get('shard_id')
    if shard is not None and (type(shard) is not int or shard not in self._paths):
      problem = f'is {manifest.shorten(shard)}, but there is no tar of this number'
      raise manifest.LineError('shard_id', problem)
    names = [name, _flatten_name(name)]
    if entry.get('offset') is not None:
      names += [whole := manifest.strip_subpart(name), _flatten_name(whole)]
    location = next(filter(None, (self._locate(n, shard) for n in names)), None)
    if location is None:
      raise manifest.LineError('audio_filepath', self._explain_missing(name, shard))
    path, span = self._paths[location[0]], location[1:]
    return manifest.make_utterance(entry, path, name, span=span)

  def _explain_missing(self, name: str, shard: int | None) -> str:
    problem, errors = 'is in no tar', list(self._errors.values())
    if shard is not None:
      problem = f'is not in {self._paths[shard].name}'
      errors = [self._errors[shard]] if shard in self._errors else []
    cause = f' ({errors[0]})' if errors else ''
    return f'{manifest.shorten(name)} {problem}{cause}'

  def _locate(self, name: str, shard: int | None) -> _Location | None:
    first = self._locations.get(name)
    if first is None or shard in (None, first[0]):
      return first
    return self._locations.get((shard, name))


def _flatten_name(name: str) -> str:
  """Return NeMo's name of a file in a tar, without folders and with one dot."""
  stem, suffix = os.path.splitext(name)
  return re.sub('[/.]', '_', stem) + suffix
