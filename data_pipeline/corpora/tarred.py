# SPDX-License-Identifier: Apache-2.0
"""NeMo's tarred corpora: a manifest beside `audio_0.tar`, `audio_1.tar`, ...

The path is the folder, its manifest, or one shard: `manifest_3.json` or `audio_3.tar`,
where each tar has a manifest, beside it or in `sharded_manifests`.

A line of the manifest names a member of a tar, as it is or as NeMo flattens names
(`a/b.wav` to `a_b.wav`, or `a_b-sub2.wav` for a further utterance of `a/b.wav`); its
optional `shard_id` is the number of the tar. Nothing is unpacked: the headers tell
which bytes of a tar are the recording.
"""

import io
import itertools
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from data_pipeline.corpora import manifest
from data_pipeline.corpora.utterance import Item, Utterance, inside

_MANIFEST = 'tarred_audio_manifest.json'
_TAR = re.compile(r'audio_([0-9]{1,9})\.tar')
_SHARD = re.compile(r'(?:audio_([0-9]{1,9})\.tar)|(?:manifest_([0-9]{1,9})\.json)')
_SHARDED = 'sharded_manifests'
_HEADER_BYTES = 1 << 20  # tarfile would hold a name or attributes of any length
# What tarfile raises at damaged headers, by what they claim.
_DAMAGE = (
  tarfile.TarError,
  OSError,
  ValueError,
  ArithmeticError,
  LookupError,
  RecursionError,
)

_Place = tuple[int, int, int]  # number of the tar, offset, size


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances in the order of the manifest, once its tars have been looked through."""
  if path.is_dir():
    if shards := [] if (path / _MANIFEST).is_file() else _shards(path):
      return itertools.chain.from_iterable(map(read, shards))
    return manifest.items(_manifest(path), _Tars(path.resolve()).utterance)
  if found := _SHARD.fullmatch(path.name):
    return _shard(path, int(found[1] or found[2]))
  if path.suffix not in ('.json', '.jsonl') or not path.is_file():
    raise ValueError(f'{path}: is not a folder, a manifest or an audio_N.tar')
  return manifest.items(path, _Tars(path.parent.resolve()).utterance)


def _shards(folder: pathlib.Path) -> list[pathlib.Path]:
  """The manifests of single tars, by number."""
  paths = [*folder.glob('manifest_*.json'), *folder.glob(f'{_SHARDED}/manifest_*.json')]
  found = {int(m[2]): p for p in paths if (m := _SHARD.fullmatch(p.name))}
  return [path for _, path in sorted(found.items())]


def _shard(path: pathlib.Path, number: int) -> Iterator[Item]:
  """The utterances of one tar; `path` is it or its manifest."""
  folder = path.parent
  folder = folder.parent if folder.name == _SHARDED else folder
  name = f'manifest_{number}.json'
  for lines in (folder / name, folder / _SHARDED / name):
    if lines.is_file():
      return manifest.items(lines, _Tars(folder.resolve(), number).utterance)
  raise FileNotFoundError(f'{path}: has no {name} beside it or in {_SHARDED}')


def _manifest(folder: pathlib.Path) -> pathlib.Path:
  if (path := folder / _MANIFEST).is_file():
    return path
  names = sorted(folder.glob('*.json')) + sorted(folder.glob('*.jsonl'))
  found = [path for path in names if path.is_file()]
  if len(found) != 1:
    raise ValueError(
      f'{folder}: has no {_MANIFEST}, and {len(found)} other .json or .jsonl files'
    )
  return found[0]


class _Tars:
  """Where each recording lies, and what is wrong with the tars: of all, or of one."""

  def __init__(self, folder: pathlib.Path, only: int | None = None):
    self._paths: dict[int, pathlib.Path] = {}
    self._faults: dict[int, str] = {}
    # By name; by tar and name too, for a name that an earlier tar has already.
    self._places: dict[str | tuple[int, str], _Place] = {}
    for path in sorted(folder.glob('audio_*.tar')):
      found = _TAR.fullmatch(path.name)
      if found and only in (None, int(found[1])):
        self._paths[int(found[1])] = path
    for shard, path in sorted(self._paths.items()):
      try:
        self._add(shard, inside(folder, path))
      except _DAMAGE as error:
        self._faults[shard] = f'{path.name}: {str(error)[:200]}'

  def _add(self, shard: int, path: pathlib.Path) -> None:
    for name, offset, size in _members(path):
      place = (shard, offset, size)
      if self._places.setdefault(name, place)[0] != shard:
        self._places.setdefault((shard, name), place)

  def utterance(self, entry: dict[str, Any]) -> Utterance:
    """The utterance of one line of the manifest; LineError if no tar has it."""
    name, shard = manifest.required(entry, 'audio_filepath'), entry.get('shard_id')
    if shard is not None and (type(shard) is not int or shard not in self._paths):
      problem = f'is {manifest.short(shard)}, the number of no tar'
      raise manifest.LineError('shard_id', problem)
    names = [name, _flat(name)]
    if entry.get('offset') is not None:
      names += [whole := manifest.whole_name(name), _flat(whole)]
    place = next(filter(None, (self._find(n, shard) for n in names)), None)
    if place is None:
      raise manifest.LineError('audio_filepath', self._why_missing(name, shard))
    return manifest.utterance(entry, self._paths[place[0]], name, span=place[1:])

  def _why_missing(self, name: str, shard: int | None) -> str:
    where, faults = 'in no tar', list(self._faults.values())
    if shard is not None:
      where = f'not in {self._paths[shard].name}'
      faults = [self._faults[shard]] if shard in self._faults else []
    fault = f' ({faults[0]})' if faults else ''
    return f'{manifest.short(name)} is {where}{fault}'

  def _find(self, name: str, shard: int | None) -> _Place | None:
    first = self._places.get(name)
    if first is None or shard in (None, first[0]):
      return first
    return self._places.get((shard, name))


def _flat(name: str) -> str:
  """The name that NeMo gives a file in a tar: one folder, one dot."""
  stem, suffix = os.path.splitext(name)
  return re.sub('[/.]', '_', stem) + suffix


class _Headers(io.FileIO):
  """A tar of which nothing long is read: its recordings are passed over."""

  def read(self, size: int | None = -1, /) -> bytes:
    if size is None or not 0 <= size <= _HEADER_BYTES:
      raise tarfile.ReadError(f'has a header of {size} bytes, limit {_HEADER_BYTES}')
    return super().read(size)


def _members(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
  """Name, offset and size of the files in a tar, up to what raises one of _DAMAGE."""
  if not path.is_file():  # a pipe may never end
    raise tarfile.ReadError('is not a regular file')
  last, end = -1, path.stat().st_size
  with (
    _Headers(str(path)) as file,
    tarfile.open(fileobj=file, mode='r:', encoding='utf-8') as tar,
  ):
    while member := tar.next():
      # tarfile would keep them all.
      tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
      if member.offset <= last:  # a negative size leads back
        raise tarfile.ReadError(f'is damaged at byte {last}')
      last = member.offset
      if not member.isreg() or member.issparse():
        continue
      if not 0 <= member.size <= end - member.offset_data:
        raise tarfile.ReadError(f'is truncated: {end} bytes end within a file')
      yield member.name, member.offset_data, member.size
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise tarfile.ReadError(f'is truncated or damaged at byte {tar.offset}')
