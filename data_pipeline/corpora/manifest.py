# SPDX-License-Identifier: Apache-2.0
"""JSON-lines manifests with NeMo's keys, one utterance per line.

`audio_filepath` (relative to the manifest, and within its folder) and `text`; optional
`duration` (seconds), `id`, `speaker`, `lang`, `response`. Further keys are ignored.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance, inside


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
  text, duration = required(entry, 'text'), entry.get('duration')
  if duration is not None and (type(duration) not in (int, float) or not duration >= 0):
    raise LineError('duration', f'is {short(duration)}, not a number of seconds')
  if entry.get('offset'):
    raise LineError('offset', f'is {short(entry["offset"])}: only whole files are read')
  return Utterance(
    _string(entry, 'id') or os.path.splitext(name)[0],
    audio,
    text,
    speaker=_string(entry, 'speaker'),
    lang=_string(entry, 'lang'),
    response=_string(entry, 'response'),
    span=span,
  )


def required(entry: dict[str, Any], key: str) -> str:
  """The string of a key that must be there."""
  value = _string(entry, key)
  if value is None:
    raise LineError(key, 'is missing')
  return value


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
