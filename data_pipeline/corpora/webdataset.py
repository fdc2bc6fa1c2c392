# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: tars in which the members of an utterance stand together.

The path is a tar, or a folder with tars at any depth; a pattern names several. Members
whose names are equal up to the first dot are an utterance: `a/0001.flac` (any of
`audio.SUFFIXES`) and `a/0001.txt`, or `a/0001.json` with the text, the speaker and the
language (`columns.py`). Nothing is extracted: tar headers give the byte range of the
audio, and the text is read where it is.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from data_pipeline.audio import SUFFIXES
from data_pipeline.corpora import columns, manifest, text_files
from data_pipeline.corpora.manifest import LineError
from data_pipeline.corpora.tar_members import TAR_ERRORS, list_members
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
)
from data_pipeline.corpora.walk import resolve_archive, walk

_NAME = re.compile(r'((?:.*/)?[^/.]+)\.([^/]+)', re.DOTALL)  # key and extension
_COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
MAX_TEXT_BYTES = 1 << 20  # of a member with text


class _Member(NamedTuple):
  key: str
  extension: str
  offset: int
  size: int


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the tars and their members.

  contained: tars that are links to somewhere else are refused. ValueError for a tar
  that is compressed or damaged.
  """
  found = walk(path, contained) if path.is_dir() else iter([path])
  count = 0
  for tar in found:
    if tar.name.lower().endswith(_COMPRESSED):
      raise ValueError(f'{tar}: is compressed; decompress it, to be read in place')
    if tar.suffix.lower() == '.tar':
      count += 1
      yield from _read_tar(resolve_archive(path, tar, contained))
  if not count:
    raise ValueError(f'{path}: is no .tar file and no folder with some')


def _read_tar(path: pathlib.Path) -> Iterator[AnyUtterance]:
  with path.open('rb') as file:
    for key, members in itertools.groupby(_read_members(path), lambda m: m.key):
      try:
        yield _make_utterance(path, file, key, members)
      except LineError as error:
        yield BadUtterance(key, error.field, f'{path}: {key}: {error}')


def _read_members(path: pathlib.Path) -> Iterator[_Member]:
  """Yield the members that belong to an utterance."""
  try:
    for name, offset, size in list_members(path):
      match = _NAME.fullmatch(name)
      if match and not match[1].rpartition('/')[2].startswith('__'):  # metadata
        key = match[1].removeprefix('./')
        yield _Member(key, match[2].lower(), offset, size)
  except TAR_ERRORS as error:
    raise ValueError(f'{path}: {str(error)[:200]}; fetch or write it again') from None


def _make_utterance(
  path: pathlib.Path, file: IO[bytes], key: str, members: Iterator[_Member]
) -> Utterance:
  by_extension: dict[str, _Member] = {}
  for member in members:
    extension = member.extension
    if extension in ('txt', 'json') or f'.{extension}' in SUFFIXES:
      if by_extension.setdefault(extension, member) is not member:
        raise LineError('member', f'{key}.{extension} occurs twice')
  if key.startswith('/') or '..' in key.split('/'):
    raise LineError('member', 'has a path that leads out of the tar')
  found = [m for m in by_extension.values() if m.extension not in ('txt', 'json')]
  if len(found) != 1:
    listed = ', '.join(sorted(m.extension for m in found)) or 'none'
    raise LineError('audio', f'needs one member of {SUFFIXES[0]}, …; there is {listed}')
  values = _read_values(file, by_extension)
  utterance = columns.make_utterance(values, key, path)
  span = found[0].offset, found[0].size
  return dataclasses.replace(utterance, span=span, alternative_id=f'{path.stem}/{key}')


def _read_values(file: IO[bytes], members: dict[str, _Member]) -> dict[str, Any]:
  """Return what is known of an utterance; a text of its own goes before JSON's."""
  values: dict[str, Any] = {}
  if member := members.get('json'):
    values |= manifest.parse_json(_read_text(file, member).encode())
  if member := members.get('txt'):
    values['text'] = ' '.join(_read_text(file, member).split())
  return values


def _read_text(file: IO[bytes], member: _Member) -> str:
  name = f'{member.key}.{member.extension}'
  if member.size > MAX_TEXT_BYTES:
    problem = f'{name} has {member.size} bytes; the limit is {MAX_TEXT_BYTES}'
    raise LineError('text', problem)
  file.seek(member.offset)
  try:
    return text_files.decode(file.read(member.size))
  except ValueError as error:
    raise LineError('text', f'{name} {error}') from None
