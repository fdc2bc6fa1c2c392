# SPDX-License-Identifier: Apache-2.0
"""User turns of a written instruction before or after what is spoken."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from acl_jax.evaluation.tasks.fields import nonempty_string
from acl_jax.evaluation.tasks.task import Speech, TaskTurn
from data_pipeline.corpora.manifest import LineError, shorten

POSITIONS = ('before', 'after')


@contextlib.contextmanager
def naming(task: str) -> Iterator[None]:
  """Add the name of the task to each LineError."""
  try:
    yield
  except LineError as error:
    problem = str(error).removeprefix(f'{error.field} ')
    raise LineError(error.field, f'{problem} (task {task})') from None


def optional_string(entry: Mapping[str, Any], key: str) -> str | None:
  """Return a string, which may be missing or null but not empty."""
  return None if entry.get(key) is None else nonempty_string(entry, key)


def instructed_turn(
  entry: Mapping[str, Any], speech: Speech, instruction: str, position: str
) -> TaskTurn:
  """Return a user turn; a line may have its own `instruction` and `position`."""
  instruction = optional_string(entry, 'instruction') or instruction
  position = read_position(entry, position)
  if position == 'before':
    return TaskTurn('user', (f'{instruction}\n', speech))
  return TaskTurn('user', (speech, f'\n{instruction}'))


def read_position(entry: Mapping[str, Any], default: str) -> str:
  """Return 'before' or 'after': where a line wants its instruction."""
  if (position := entry.get('position')) is None:
    return default
  if position not in POSITIONS:
    raise LineError('position', f"is {shorten(position)}, not 'before' or 'after'")
  return position


def draw_position(id: str) -> str:
  """Return 'before' or 'after'; depends on the id alone."""
  return POSITIONS[hashlib.sha256(id.encode()).digest()[0] % 2]
