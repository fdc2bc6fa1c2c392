# SPDX-License-Identifier: Apache-2.0
"""JSON-lines manifests with NeMo's keys, one utterance per line.

`audio_filepath` and `text` are required; `id`, `speaker`, `lang`, `response`, `offset`
and `duration` (seconds) are optional. A relative `audio_filepath` starts at the
manifest and stays inside its folder; an absolute one may be anywhere. With an `offset`
(even 0) and a `duration` the utterance is this part of the audio, without an `offset`
all of it. Other keys are ignored.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

T = TypeVar('T')
_SUBPART = re.compile('-sub[0-9]+$')


class LineError(ValueError):
  """A line that cannot be used because of `field`."""

  def __init__(self, field: str, problem: str):
    super().__init__(f'{field} {problem}')
    self.field = field


def read(path: pathlib.Path) -> Iterator[AnyUtterance]:
  """Yield utterances in the order of the lines, bad lines as bad utterances."""
  if not path.is_file():
    raise ValueError(f'{path}: is not a manifest file')
  folder = path.parent.resolve()
  return read_lines(path, lambda entry: from_entry(entry, folder))


def read_lines(
  path: pathlib.Path, parse_entry: Callable[[dict[str, Any]], T]
) -> Iterator[T | BadUtterance]:
  """Yield `parse_entry` of each line, or a bad utterance if it raises LineError."""
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        yield parse_entry(_parse_json(line))
      except LineError as error:
        reason = f'{path} line {number}: {error}'
        yield BadUtterance(f'{path.name}:{number}', error.field, reason)


def _parse_json(line: bytes) -> dict[str, Any]:
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise LineError('line', f'is not JSON ({error})') from None
  if not isinstance(entry, dict):
    raise LineError('line', 'is not a JSON object')
  return entry


def from_entry(entry: dict[str, Any], folder: pathlib.Path) -> Utterance:
  """Return the utterance of a line of a manifest in `folder`; LineError if it is bad.

  Its id defaults to the path in the folder, or else the absolute path, without suffix.
  """
  name = required_string(entry, 'audio_filepath')
  # NeMo writes absolute paths as a rule.
  root = pathlib.Path('/') if os.path.isabs(name) else folder
  try:
    audio = resolve_inside(root, name)
  except ValueError as error:
    raise LineError('audio_filepath', f'{shorten(name)} {error}') from None
  inside = audio.relative_to(folder if audio.is_relative_to(folder) else '/')
  return make_utterance(entry, audio, inside.as_posix())


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
  return Utterance(
    get_id(entry, name),
    audio,
    required_string(entry, 'text'),
    speaker=_optional_string(entry, 'speaker'),
    lang=_optional_string(entry, 'lang'),
    response=_optional_string(entry, 'response'),
    span=span,
    stretch=stretch,
  )


def get_id(entry: dict[str, Any], name: str) -> str:
  """Return the id of a line; it defaults to `name` without suffix, and the offset."""
  if id := _optional_string(entry, 'id'):
    return id
  offset = _optional_seconds(entry, 'offset')
  stem = os.path.splitext(name)[0]
  if offset and _SUBPART.search(stem) is None:  # NeMo's names are unique already
    stem = f'{stem}-{offset:.3f}'
  return stem


def strip_subpart(name: str) -> str:
  """Return the name of the audio that NeMo's `name-sub2.wav` is a part of."""
  stem, suffix = os.path.splitext(name)
  return _SUBPART.sub('', stem) + suffix


def required_string(entry: dict[str, Any], key: str) -> str:
  """Return the string of a required key."""
  value = _optional_string(entry, key)
  if value is None:
    raise LineError(key, 'is missing')
  return value


def _optional_seconds(entry: dict[str, Any], key: str) -> float | None:
  value = entry.get(key)
  if value is not None and (type(value) not in (int, float) or not 0 <= value < 1e9):
    raise LineError(key, f'is {shorten(value)}, not a number of seconds')
  return None if value is None else float(value)


def _optional_string(entry: dict[str, Any], key: str) -> str | None:
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
