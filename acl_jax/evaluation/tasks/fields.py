# SPDX-License-Identifier: Apache-2.0
"""Fields of the lines of a manifest that several tasks have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acl_jax.evaluation.tasks.task import Speech
from data_pipeline.corpora.manifest import (
  LineError,
  from_entry,
  required_string,
  shorten,
)
from data_pipeline.corpora.text_files import is_blank

MAX_STRINGS = 100  # of a list
MAX_CHARACTERS = 10_000  # of a string


def nonempty_string(entry: Mapping[str, Any], key: str) -> str:
  """Return a string, stripped; LineError if it is missing, empty or too long."""
  value = required_string(dict(entry), key).strip()
  check_string(value, key)
  return value


def nonempty_strings(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
  """Return a list of strings, stripped; LineError if it or one of them is empty."""
  values = entry.get(key)
  if values is None:
    raise LineError(key, 'is missing')
  if not isinstance(values, list):
    raise LineError(key, f'is {shorten(values)}, not a list of strings')
  if not 0 < len(values) <= MAX_STRINGS:
    raise LineError(key, f'has {len(values)} strings; it must have 1 to {MAX_STRINGS}')
  strings = []
  for number, value in enumerate(values):
    strings.append(nonempty_string({f'{key}[{number}]': value}, f'{key}[{number}]'))
  return tuple(strings)


def check_string(value: str, key: str) -> None:
  """Raise LineError if a string is empty or too long."""
  if is_blank(value):
    raise LineError(key, 'is empty')
  if len(value) > MAX_CHARACTERS:
    raise LineError(key, f'has {len(value)} characters; the limit is {MAX_CHARACTERS}')


def read_speech(entry: Mapping[str, Any], folder: Path) -> Speech:
  """Return the audio of a line, or of a part of a turn, and what it says."""
  nonempty_string(entry, 'text')
  return Speech(from_entry(dict(entry), folder))
