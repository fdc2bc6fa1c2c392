# SPDX-License-Identifier: Apache-2.0
"""JSON-lines manifests with NeMo's keys, one utterance per line.

`audio_filepath` and `text` are required; `id`, `speaker`, `lang`, `response`, `offset`
and `duration` (seconds) are optional. A relative `audio_filepath` starts at the
manifest and stays inside its folder, unless it is a link; one that is absolute or
starts with `~` may be anywhere. With an `offset` (even 0) and a `duration` the
utterance is this part of the audio, without an `offset` all of it. Other keys are
ignored.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from data_pipeline.corpora import text_files
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

T = TypeVar('T')
_SUBPART = re.compile('-sub[0-9]+$')
_NUMBER = re.compile(r'\s*[-+]?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?\s*', re.IGNORECASE)


class LineError(ValueError):
  """A line that cannot be used because of `field`."""

  def __init__(self, field: str, problem: str):
    super().__init__(f'{field} {problem}')
    self.field = field


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the lines, bad lines as bad utterances.

  contained: audio outside the folder of the manifest is refused.
  """
  if not path.is_file():
    raise ValueError(f'{path}: is not a manifest file')
  folder = path.parent.resolve()
  return read_lines(path, lambda entry: from_entry(entry, folder, contained))


def read_lines(
  path: pathlib.Path, parse_entry: Callable[[dict[str, Any]], T]
) -> Iterator[T | BadUtterance]:
  """Yield `parse_entry` of each line, or a bad utterance if it raises LineError.

  ValueError if the file is UTF-16.
  """
  return parse_lines(path, text_files.read_lines(path), parse_entry)


def parse_lines(
  path: pathlib.Path,
  lines: Iterable[bytes],
  parse_entry: Callable[[dict[str, Any]], T],
) -> Iterator[T | BadUtterance]:
  """As `read_lines`, of lines that were read from `path` in another way."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      yield parse_entry(parse_json(line))
    except LineError as error:
      reason = f'{path} line {number}: {error}'
      yield BadUtterance(f'{path.name}:{number}', error.field, reason)


def parse_json(line: bytes) -> dict[str, Any]:
  """Return the object of a line; LineError if it is none."""
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise LineError('line', f'is not JSON ({error})') from None
  if not isinstance(entry, dict):
    raise LineError('line', 'is not a JSON object')
  return entry


def from_entry(
  entry: dict[str, Any], folder: pathlib.Path, contained: bool = False
) -> Utterance:
  """Return the utterance of a line of a manifest in `folder`; LineError if it is bad.

  Its id defaults to the path in the folder, or else the absolute path, without suffix.

  contained: whether audio outside the folder is bad.
  """
  name = required_string(entry, 'audio_filepath')
  try:
    path = os.path.expanduser(name)
    # NeMo writes absolute paths as a rule.
    root = pathlib.Path('/') if os.path.isabs(path) and not contained else folder
    audio = resolve_inside(root, path, follow_links=not contained)
  except ValueError as error:
    raise LineError('audio_filepath', f'{shorten(name)} {error}') from None
  if audio.is_relative_to(folder):
    inside = audio.relative_to(folder).as_posix()
  else:
    inside = audio.as_posix() if os.path.isabs(path) else os.path.normpath(path)
    inside = inside.lstrip('/')
  return make_utterance(entry, audio, inside)


def make_utterance(
  entry: dict[str, Any],
  audio: pathlib.Path,
  name: str,
  span: tuple[int, int] | None = None,
) -> Utterance:
  """Return the utterance of a line; its id defaults to `name` without its suffix."""
  offset = _optional_seconds(entry, 'offset')
  duration = _optional_seconds(entry, 'duration')
  if offset and duration is None:
    raise LineError('duration', 'is missing, but offset is set')
  stretch = None if offset is None or duration is None else (offset, duration)
  has_id = entry.get('id') not in (None, '')
  return Utterance(
    get_id(entry, name),
    audio,
    required_string(entry, 'text'),
    speaker=optional_string(entry, 'speaker'),
    lang=optional_string(entry, 'lang'),
    response=optional_string(entry, 'response'),
    span=span,
    stretch=stretch,
    alternative_id=None if has_id else get_id(entry, name, keep_suffix=True),
  )


def get_id(entry: dict[str, Any], name: str, keep_suffix: bool = False) -> str:
  """Return the id of a line; it defaults to `name` without suffix, and the offset."""
  if id := optional_string(entry, 'id'):
    return id
  offset = _optional_seconds(entry, 'offset')
  stem = name if keep_suffix else os.path.splitext(name)[0]
  if offset and _SUBPART.search(stem) is None:  # NeMo's names are unique already
    stem = f'{stem}-{offset:.3f}'
  return stem


def strip_subpart(name: str) -> str:
  """Return the name of the audio that NeMo's `name-sub2.wav` is a part of."""
  stem, suffix = os.path.splitext(name)
  return _SUBPART.sub('', stem) + suffix


def required_string(entry: Mapping[str, Any], key: str) -> str:
  """Return the string of a required key."""
  value = optional_string(entry, key)
  if value is None:
    raise LineError(key, 'is missing')
  return value


def _optional_seconds(entry: dict[str, Any], key: str) -> float | None:
  value = entry.get(key)
  if isinstance(value, str) and len(value) < 40 and _NUMBER.fullmatch(value):
    raise LineError(key, f'is {shorten(value)}, a number in quotes; remove the quotes')
  if value is None:
    return None
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  seconds: Any = value if is_number else math.nan
  if not 0 <= seconds < 1e9:
    raise LineError(key, f'is {shorten(value)}, not a number of seconds')
  return float(seconds)


def optional_string(entry: Mapping[str, Any], key: str) -> str | None:
  """Return the string of a key, None if it is missing or null."""
  value = entry.get(key)
  if value is None:
    return None
  if not isinstance(value, str):
    raise LineError(key, f'is {shorten(value)}, not a string')
  try:
    value.encode()
  except UnicodeEncodeError:  # half of a surrogate pair, which JSON allows
    raise LineError(key, 'is not valid Unicode') from None
  return value


def shorten(value: Any) -> str:
  """Return the repr of a value, shortened for an error message."""
  written = repr(value)
  return written if len(written) <= 60 else written[:60] + '…'
