# SPDX-License-Identifier: Apache-2.0
"""Fields of a line of a manifest, checked; every error names the field and the task."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from acl_jax.evaluation.tasks.task import Speech, TaskTurn
from data_pipeline.corpora import manifest
from data_pipeline.corpora.manifest import LineError

MAX_CHARACTERS = 20_000  # of a field, so that no score takes minutes
MAX_TRANSCRIPT_CHARACTERS = 200_000
POSITIONS = ('before', 'after')


@contextlib.contextmanager
def naming(task: str) -> Iterator[None]:
  """Add the name of the task to each LineError."""
  try:
    yield
  except LineError as error:
    problem = str(error).removeprefix(f'{error.field} ')
    raise LineError(error.field, f'{problem} (task {task})') from None


def is_named(entry: Mapping[str, Any], task: str, keys: Sequence[str] = ()) -> bool:
  """Return whether a line is of a task: it names it, or no task and has its keys.

  keys: none if a line must name the task.
  """
  if (name := entry.get('task')) is not None:
    return name == task
  return bool(keys) and all(key in entry for key in keys)


def text_field(
  entry: Mapping[str, Any], key: str, max_characters: int = MAX_CHARACTERS
) -> str:
  """Return a string that says something, stripped."""
  text = manifest.required_string(dict(entry), key).strip()
  if not text:
    raise LineError(key, 'is empty')
  if len(text) > max_characters:
    raise LineError(
      key, f'has {len(text):,} characters; the limit is {max_characters:,}'
    )
  return text


def optional_text(entry: Mapping[str, Any], key: str) -> str | None:
  """Return the string of a key, which may be missing or null but not empty."""
  return None if entry.get(key) is None else text_field(entry, key)


def read_speech(entry: Mapping[str, Any], folder: pathlib.Path) -> Speech:
  """Return what a line says: its audio, whose transcript must not be empty."""
  text_field(entry, 'text', MAX_TRANSCRIPT_CHARACTERS)
  return Speech(manifest.from_entry(dict(entry), folder))


def instructed_turn(
  entry: Mapping[str, Any],
  speech: Speech,
  instruction: str,
  position: str,
) -> TaskTurn:
  """Return a user turn of an instruction before or after what is said.

  A line may have its own `instruction` and `position`.
  """
  instruction = optional_text(entry, 'instruction') or instruction
  if entry.get('position') is not None:
    position = entry['position']
    if position not in POSITIONS:
      problem = f"is {manifest.shorten(position)}, not 'before' or 'after'"
      raise LineError('position', problem)
  if position == 'before':
    return TaskTurn('user', (f'{instruction}\n', speech))
  return TaskTurn('user', (speech, f'\n{instruction}'))


def draw_position(id: str) -> str:
  """Return 'before' or 'after'; depends on the id alone."""
  return POSITIONS[hashlib.sha256(id.encode()).digest()[0] % 2]
