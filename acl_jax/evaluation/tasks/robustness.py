# SPDX-License-Identifier: Apache-2.0
"""Any other task under every degradation of the audio, and clean beside it."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from acl_jax.evaluation.degradations import DEGRADATIONS
from acl_jax.evaluation.tasks.task import Answer, Case, Speech, Task, TaskTurn

CLEAN = 'clean'  # the group of the audio as it is


@dataclasses.dataclass(frozen=True)
class DegradedCase(Case):
  """A case under a degradation; original: as its task made and scores it."""

  original: Case | None = None


@dataclasses.dataclass(frozen=True)
class Robustness:
  """The cases of `task`, each once per degradation; the group is the degradation."""

  task: Task

  @property
  def name(self) -> str:
    return f'robustness_{self.task.name}'

  @property
  def metrics(self) -> tuple[str, ...]:
    return self.task.metrics

  @property
  def binary(self) -> bool:
    return self.task.binary

  def applies(self, entry: Mapping[str, Any]) -> bool:
    return self.task.applies(entry)

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return every case under every degradation; a case without speech is left out."""
    cases = [case for case in self.task.parse(entry, folder) if case.speech]
    return [degraded for case in cases for degraded in degrade_case(case)]

  def expected_from(self, case: Case, text_answer: Answer) -> Case:
    """Return the case completed as its task does; itself if the task needs nothing."""
    complete = getattr(self.task, 'expected_from', None)
    return complete(case, text_answer) if complete else case

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    return self.task.score(_original(case), answer)

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    return self.task.pool([_original(case) for case in cases], answers)


def _original(case: Case) -> Case:
  """Return the case as its task made it, with what is expected of it by now."""
  if not isinstance(case, DegradedCase) or case.original is None:
    return case
  return dataclasses.replace(case.original, expected=case.expected)


def degrade_case(case: Case) -> Iterator[DegradedCase]:
  """Yield the case clean and under each degradation."""
  for group in (CLEAN, *DEGRADATIONS):
    values = {
      field.name: getattr(case, field.name) for field in dataclasses.fields(Case)
    }
    values |= {
      'id': f'{case.id}/{group}',
      'turns': degrade_turns(case.turns, '' if group == CLEAN else group),
      'group': group,
      'line': case.line or case.id,
    }
    yield DegradedCase(**values, original=case)


def degrade_turns(turns: Sequence[TaskTurn], degradation: str) -> tuple[TaskTurn, ...]:
  """Return the turns with all that is spoken degraded; '' leaves it clean."""
  return tuple(
    TaskTurn(
      turn.role,
      tuple(
        dataclasses.replace(part, degradation=degradation)
        if isinstance(part, Speech)
        else part
        for part in turn.content
      ),
    )
    for turn in turns
  )
