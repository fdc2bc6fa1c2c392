# SPDX-License-Identifier: Apache-2.0
"""Spoken requests with constraints that can be checked, as in IFEval.

A line has `audio_filepath`, `text` (the request, with its constraints said aloud) and
`constraints`, as `acl_jax.evaluation.scoring.constraints` describes them.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from acl_jax.evaluation.scoring.constraints import (
  Constraint,
  follows,
  follows_loosely,
  read_constraint,
)
from acl_jax.evaluation.tasks.fields import read_speech
from acl_jax.evaluation.tasks.instructed import naming
from acl_jax.evaluation.tasks.task import Answer, Case, TaskTurn
from data_pipeline.corpora.manifest import LineError, shorten

MAX_NEW_TOKENS = 256
MAX_NEW_TOKENS_OF_LONG_ANSWERS = 1_024
MAX_CONSTRAINTS = 20
_CHECKS = {'strict': follows, 'loose': follows_loosely}


@dataclasses.dataclass(frozen=True)
class Instructions:
  """Accuracy per prompt (all constraints of it) and per constraint."""

  name: str = 'instructions'
  metrics: tuple[str, ...] = (
    'prompt_strict',
    'prompt_loose',
    'instruction_strict',
    'instruction_loose',
  )
  binary: bool = True

  def applies(self, entry: Mapping[str, Any]) -> bool:
    return 'constraints' in entry

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return one case; its group is the kind of its constraint, or 'several'."""
    with naming(self.name):
      speech = read_speech(entry, folder)
      constraints = _read_constraints(entry)
    kinds = {constraint['kind'] for constraint in constraints}
    return [
      Case(
        speech.utterance.id,
        (TaskTurn('user', (speech,)),),
        max(map(_tokens_needed, constraints)),
        group=kinds.pop() if len(kinds) == 1 else 'several',
        expected=constraints,
      )
    ]

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    return {
      f'prompt_{name}': float(all(_verdicts(check, case, answer)))
      for name, check in _CHECKS.items()
    }

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return shares of all constraints, each of which counts the same."""
    if not cases:
      return {}
    pairs = list(zip(cases, answers, strict=True))
    total = sum(len(case.expected) for case in cases)
    return {
      f'instruction_{name}': sum(sum(_verdicts(check, *pair)) for pair in pairs) / total
      for name, check in _CHECKS.items()
    }


def _verdicts(
  check: Callable[[str, Constraint], bool], case: Case, answer: Answer
) -> list[bool]:
  return [check(answer.text, constraint) for constraint in case.expected]


def _tokens_needed(constraint: Constraint) -> int:
  """Return how many tokens an answer may have: twice the words that it must have."""
  words = constraint.get('at_least', 0) if constraint['kind'] == 'num_words' else 0
  return min(max(MAX_NEW_TOKENS, 2 * words), MAX_NEW_TOKENS_OF_LONG_ANSWERS)


def _read_constraints(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  constraints = entry.get('constraints')
  if constraints is None:
    raise LineError('constraints', 'is missing')
  if not isinstance(constraints, list) or not 0 < len(constraints) <= MAX_CONSTRAINTS:
    raise LineError(
      'constraints',
      f'is {shorten(constraints)}, not a list of 1 to {MAX_CONSTRAINTS} objects',
    )
  return [read_constraint(constraint) for constraint in constraints]
