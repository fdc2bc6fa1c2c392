# SPDX-License-Identifier: Apache-2.0
"""JSON-lines manifests with NeMo's keys, one utterance per line.

`audio_filepath` (relative to the manifest, and within its folder) and `text`; optional
`id`, `speaker`, `lang`, `response`, `offset` and `duration` (seconds). A line with an
`offset`, be it 0, and a `duration` stands for this stretch of the recording; without an
`offset` the recording is read whole. Further keys are ignored.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance, inside

_SUBPART = re.compile('-sub[0-9]+$')


class LineError(ValueError):
  """A line that cannot be used, and the field to blame."""

  def __init__(self, field: str, problem: str):
    super().__init__(f'{field} {problem}')
    self.field = field


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances in the order of the lines; a bad line is yielded as such."""
  if not path.is_file():
    raise ValueError(f'{path}: is not a manifest file')
  folder = path.parent.resolve()
  return items(path, lambda entry: _in_folder(entry, folder))


def items(
  path: pathlib.Path, utterance: Callable[[dict[str, Any]], Utterance]
) -> Iterator[Item]:
  """What `utterance` makes of each line; where it raises LineError, a bad one."""
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        yield utterance(_parse(line))
      except LineError as error:
        reason = f'{path} line {number}: {error}'
        yield BadUtterance(f'{path.name}:{number}', error.field, reason)


def _parse(line: bytes) -> dict[str, Any]:
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise LineError('line', f'is not JSON ({error})') from None
  if not isinstance(entry, dict):
    raise LineError('line', 'is not a JSON object')
  return entry


def _in_folder(entry: dict[str, Any], folder: pathlib.Path) -> Utterance:
  name = required(entry, 'audio_filepath')
  try:
    audio = inside(folder, name)
  except ValueError as error:
    raise LineError('audio_filepath', f'{short(name)} {error}') from None
  return utterance(entry, audio, audio.relative_to(folder).as_posix())


def utterance(
  entry: dict[str, Any],
  audio: pathlib.Path,
  name: str,
  span: tuple[int, int] | None = None,
) -> Utterance:
  """The utterance of a line; `name` without its suffix is the id if there is none."""
  offset, duration = _seconds(entry, 'offset'), _seconds(entry, 'duration')
  stem = os.path.splitext(name)[0]
  if offset and _SUBPART.search(stem) is None:  # which NeMo's names would tell apart
    stem = f'{stem}-{offset:.3f}'
  if offset and duration is None:
    raise LineError('duration', 'is missing, but there is an offset')
  stretch = None if offset is None or duration is None else (offset, duration)
  return Utterance(
    _string(entry, 'id') or stem,
    audio,
    required(entry, 'text'),
    speaker=_string(entry, 'speaker'),
    lang=_string(entry, 'lang'),
    response=_string(entry, 'response'),
    span=span,
    stretch=stretch,
  )


def whole_name(name: str) -> str:
  """The name of the recording that NeMo's `name-sub2.wav` is a part of."""
  stem, suffix = os.path.splitext(name)
  return _SUBPART.sub('', stem) + suffix


def required(entry: dict[str, Any], key: str) -> str:
  """The string of a key that must be there."""
  value = _string(entry, key)
  if value is None:
    raise LineError(key, 'is missing')
  return value


def _seconds(entry: dict[str, Any], key: str) -> float | None:
  value = entry.get(key)
  if value is not None and (type(value) not in (int, float) or not 0 <= value < 1e9):
    raise LineError(key, f'is {short(value)}, not a number of seconds')
  return None if value is None else float(value)


def _string(entry: dict[str, Any], key: str) -> str | None:
  value = entry.get(key)
  if value is None:
    return None
  if not isinstance(value, str):
    raise LineError(key, f'is {short(value)}, not a string')
  try:
    value.encode()
  except UnicodeEncodeError:  # half of a surrogate pair: JSON lets it through
    raise LineError(key, 'is not valid Unicode') from None
  return value


def short(value: Any) -> str:
  """A value as an error shows it."""
  written = repr(value)
  return written if len(written) <= 60 else written[:60] + '…'
