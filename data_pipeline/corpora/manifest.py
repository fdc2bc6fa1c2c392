# SPDX-License-Identifier: Apache-2.0
"""JSON-lines manifests with NeMo's keys, one utterance per line.

`audio_filepath` (relative to the manifest, and within its folder) and `text`; optional
`duration` (seconds), `id`, `speaker`, `lang`, `response`. Further keys are ignored.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance, inside


class _LineError(ValueError):
  """A line that cannot be used, and the field to blame."""

  def __init__(self, field: str, problem: str):
    super().__init__(f'{field} {problem}')
    self.field = field


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances in the order of the lines; a bad line is yielded as such."""
  if not path.is_file():
    raise ValueError(f'{path}: is not a manifest file')
  folder = path.parent.resolve()
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        yield _utterance(_parse(line), folder)
      except _LineError as error:
        reason = f'{path} line {number}: {error}'
        yield BadUtterance(f'{path.name}:{number}', error.field, reason)


def _parse(line: bytes) -> dict[str, Any]:
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise _LineError('line', f'is not JSON ({error})') from None
  if not isinstance(entry, dict):
    raise _LineError('line', 'is not a JSON object')
  return entry


def _utterance(entry: dict[str, Any], folder: pathlib.Path) -> Utterance:
  name, text = _required(entry, 'audio_filepath'), _required(entry, 'text')
  duration = entry.get('duration')
  if duration is not None and (type(duration) not in (int, float) or not duration >= 0):
    raise _LineError('duration', f'is {_short(duration)}, not a number of seconds')
  if entry.get('offset'):
    raise _LineError(
      'offset', f'is {_short(entry["offset"])}: only whole files are read'
    )
  try:
    audio = inside(folder, name)
  except ValueError as error:
    raise _LineError('audio_filepath', f'{_short(name)} {error}') from None
  default = audio.relative_to(folder).with_suffix('').as_posix()
  return Utterance(
    _string(entry, 'id') or default,
    audio,
    text,
    speaker=_string(entry, 'speaker'),
    lang=_string(entry, 'lang'),
    response=_string(entry, 'response'),
  )


def _required(entry: dict[str, Any], key: str) -> str:
  value = _string(entry, key)
  if value is None:
    raise _LineError(key, 'is missing')
  return value


def _string(entry: dict[str, Any], key: str) -> str | None:
  value = entry.get(key)
  if value is None:
    return None
  if not isinstance(value, str):
    raise _LineError(key, f'is {_short(value)}, not a string')
  try:
    value.encode()
  except UnicodeEncodeError:  # half of a surrogate pair: JSON lets it through
    raise _LineError(key, 'is not valid Unicode') from None
  return value


def _short(value: Any) -> str:
  written = repr(value)
  return written if len(written) <= 60 else written[:60] + '…'
