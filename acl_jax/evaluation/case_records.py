# SPDX-License-Identifier: Apache-2.0
"""`cases.jsonl`: what every arm was given and answered, case by case."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import read_json

CASES, REPORT = 'cases.jsonl', 'report.json'
MAX_LINE_BYTES = 8 << 20
MAX_CASES = 200_000


@dataclasses.dataclass(frozen=True)
class Token:
  """A token that was heard; `alternatives` are texts and log-probabilities."""

  text: str
  log_prob: float
  alternatives: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class SpokenPart:
  """Something that was said.

  text: what was said. audio: its file, None if there is none. heard: what stood for it,
  by arm. tokens: the model's own, with posteriors.
  """

  text: str
  audio: str | None = None
  degradation: str = ''
  heard: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tokens: tuple[Token, ...] = ()


@dataclasses.dataclass(frozen=True)
class TurnRecord:
  """A message; its parts are written (str) or spoken."""

  role: str
  content: tuple[str | SpokenPart, ...]


@dataclasses.dataclass(frozen=True)
class AnswerRecord:
  """What an arm answered, and its scores by metric."""

  text: str
  scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class CaseRecord:
  """A line of `cases.jsonl`; `answers` are by arm.

  line: cases of the same one are not independent; '' is a line of its own.
  """

  task: str
  id: str
  turns: tuple[TurnRecord, ...]
  answers: Mapping[str, AnswerRecord]
  group: str = ''
  expected: Any = None
  line: str = ''

  @property
  def key(self) -> tuple[str, str]:
    return self.task, self.id

  def score(self, arm: str, metric: str) -> float | None:
    """Return a score of an arm; None if it was not measured or is not finite."""
    answer = self.answers.get(arm)
    score = None if answer is None else answer.scores.get(metric)
    return None if score is None or not math.isfinite(score) else score


def read_report(folder: Path) -> dict[str, Any]:
  """Return the content of a folder's report.json; ValueError as for `read_json`."""
  return read_json(folder / REPORT)


def read_cases(folder: Path) -> list[CaseRecord]:
  """Return the cases of a folder, [] without the file.

  ValueError names a malformed line, a case that occurs twice, or the limit that is
  exceeded.
  """
  path = folder / CASES
  if not path.is_file():
    return []
  records: dict[tuple[str, str], CaseRecord] = {}
  for number, line in _read_lines(path):
    try:
      record = _parse_case(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise ValueError(
        f'{path} line {number}: not a case with `task`, `id`, `turns` and `answers` '
        f'({error!r})'
      ) from None
    if record.key in records:
      raise ValueError(
        f'{path} line {number}: case {record.id!r} of {record.task} occurs twice'
      )
    records[record.key] = record
  return list(records.values())


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
  with path.open('rb') as file:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
      number += 1
      if len(line) > MAX_LINE_BYTES:
        raise ValueError(f'{path} line {number}: over {MAX_LINE_BYTES} bytes')
      if number > MAX_CASES:
        raise ValueError(f'{path} has more than {MAX_CASES} lines, the limit')
      if line.strip():
        yield number, line


def _parse_case(entry: Mapping[str, Any]) -> CaseRecord:
  return CaseRecord(
    task=_text(entry['task']),
    id=_text(entry['id']),
    turns=tuple(_parse_turn(turn) for turn in entry['turns']),
    answers={
      arm: AnswerRecord(
        _text(answer.get('text') or ''),
        {
          name: float(value)
          for name, value in answer.get('scores', {}).items()
          if value is not None
        },
      )
      for arm, answer in entry['answers'].items()
    },
    group=_text(entry.get('group') or ''),
    expected=entry.get('expected'),
    line=_text(entry.get('line') or ''),
  )


def _parse_turn(turn: Mapping[str, Any]) -> TurnRecord:
  content = turn['content']
  parts = [content] if isinstance(content, str) else content
  return TurnRecord(
    _text(turn['role']),
    tuple(part if isinstance(part, str) else _parse_part(part) for part in parts),
  )


def _parse_part(part: Mapping[str, Any]) -> SpokenPart:
  audio = part.get('audio')
  return SpokenPart(
    text=_text(part['text']),
    audio=None if audio is None else _text(audio),
    degradation=_text(part.get('degradation') or ''),
    heard={
      arm: _text(text)
      for arm, text in (part.get('heard') or {}).items()
      if text is not None
    },
    tokens=tuple(
      Token(
        _text(token['text']),
        float(token['log_prob']),
        tuple(
          (_text(text), float(log_prob))
          for text, log_prob in token.get('alternatives') or ()
        ),
      )
      for token in part.get('tokens') or ()
    ),
  )


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f'{value!r} should be a string')
  return value
