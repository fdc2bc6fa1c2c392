# SPDX-License-Identifier: Apache-2.0
"""Conversations of text and audio, whose last question an earlier turn answers."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from acl_jax.evaluation.tasks.fields import (
  nonempty_string,
  nonempty_strings,
  read_speech,
)
from acl_jax.evaluation.tasks.spoken_qa import score_answer
from acl_jax.evaluation.tasks.task import Answer, Case, Speech, TaskTurn
from data_pipeline.corpora.manifest import LineError, get_id, shorten

MAX_NEW_TOKENS = 64
MAX_TURNS = 16
MAX_PARTS = 16  # of a turn
ROLES = ('system', 'user', 'assistant')


class Conversation:
  """Conversations, `turns`, with `answers` to the last; the group is the pattern.

  A pattern has a letter for each turn of the user: `t` if it is written, `a` if a part
  of it is spoken.
  """

  name = 'conversation'
  metrics = ('contains', 'exact_match')
  binary = True

  def applies(self, entry: Mapping[str, Any]) -> bool:
    """Return whether a line has turns."""
    return 'turns' in entry

  def parse(self, entry: Mapping[str, Any], folder: Path) -> list[Case]:
    """Return the conversation of a line."""
    turns = tuple(_read_turns(entry.get('turns'), folder))
    if turns[-1].role != 'user':
      raise LineError('turns', f'ends with {turns[-1].role!r}; it must end with a user')
    pattern = ''.join(
      'a' if any(isinstance(part, Speech) for part in turn.content) else 't'
      for turn in turns
      if turn.role == 'user'
    )
    if entry.get('pattern', pattern) != pattern:
      raise LineError(
        'pattern', f'is {shorten(entry["pattern"])}; that of the turns is {pattern!r}'
      )
    answers = nonempty_strings(entry, 'answers')
    return [
      Case(
        id=get_id(dict(entry), _name(entry['turns'])),
        turns=turns,
        max_new_tokens=MAX_NEW_TOKENS,
        group=pattern,
        expected={'answers': answers},
      )
    ]

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    """Return whether the answer holds, and whether it is, one of the right answers."""
    scores = score_answer(answer.text, case.expected['answers'])
    return {metric: scores[metric] for metric in self.metrics}

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return nothing: every metric is a mean."""
    return {}


def _read_turns(turns: Any, folder: Path) -> Iterator[TaskTurn]:
  if not isinstance(turns, list) or not 0 < len(turns) <= MAX_TURNS:
    raise LineError(
      'turns', f'is {shorten(turns)}; it must be a list of 1 to {MAX_TURNS} turns'
    )
  for number, turn in enumerate(turns):
    field = f'turns[{number}]'
    if not isinstance(turn, dict):
      raise LineError(field, f'is {shorten(turn)}; it must have a role and a content')
    if (role := turn.get('role')) not in ROLES:
      raise LineError(f'{field}.role', f'is {shorten(role)}, not one of {ROLES}')
    content = _read_content(turn.get('content'), f'{field}.content', folder)
    if role != 'user' and any(isinstance(part, Speech) for part in content):
      raise LineError(f'{field}.content', f'has audio; that of {role!r} is written')
    yield TaskTurn(role, content)


def _read_content(content: Any, field: str, folder: Path) -> tuple[str | Speech, ...]:
  """Return the parts of a turn, with a space between each two."""
  parts = [{'text': content}] if isinstance(content, str) else content
  if not isinstance(parts, list) or not 0 < len(parts) <= MAX_PARTS:
    raise LineError(
      field, f'is {shorten(content)}; it must be text or a list of 1 to {MAX_PARTS}'
    )
  read: list[str | Speech] = []
  for number, part in enumerate(parts):
    if number:
      read.append(' ')
    where = field if isinstance(content, str) else f'{field}[{number}]'
    if not isinstance(part, dict):
      raise LineError(where, f'is {shorten(part)}; it must have text, or audio too')
    try:
      is_said = 'audio_filepath' in part
      read.append(
        read_speech(part, folder) if is_said else nonempty_string(part, 'text')
      )
    except LineError as error:
      problem = str(error).removeprefix(f'{error.field} ')
      raise LineError(f'{where}.{error.field}', problem) from None
  return tuple(read)


def _name(turns: Any) -> str:
  """Return a name of a conversation without an id."""
  return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]
