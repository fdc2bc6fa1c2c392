# SPDX-License-Identifier: Apache-2.0
"""Two reports compared case by case: paired intervals and tests."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from acl_jax.evaluation.case_records import (
  CASES,
  CaseRecord,
  SpokenPart,
  read_cases,
  read_report,
)
from acl_jax.evaluation.labels import order_arms
from acl_jax.evaluation.statistics import Lines, compare_values, number_lines

Key = tuple[str, str]  # task and id


@dataclasses.dataclass(frozen=True)
class Measured:
  """A report folder: report.json, and the cases by task and id."""

  folder: Path
  report: Mapping[str, Any]
  cases: Mapping[Key, CaseRecord]

  @property
  def tasks(self) -> Mapping[str, Any]:
    return self.report.get('tasks') or {}


def read_measured(folder: Path) -> Measured:
  """Read a report folder; ValueError if it has no tasks or no cases."""
  report, cases = read_report(folder), read_cases(folder)
  if not report.get('tasks') or not cases:
    raise ValueError(
      f'{folder} has no cases to compare: it needs `tasks` in report.json, and '
      f'{CASES}. Run evaluate again'
    )
  return Measured(folder, report, {case.key: case for case in cases})


def compare(first: Measured, second: Measured) -> dict[str, Any]:
  """Return the content of compare.json; differences are second minus first.

  Cases are paired by task and id. Left out and named are those that only one report
  has, and those that expect another answer, as of another model. ValueError if no case
  is left, or if a case says something else.
  """
  shared = [key for key in first.cases if key in second.cases]
  for key in shared:
    _check_same(key, first, second)
  paired = [
    key for key in shared if first.cases[key].expected == second.cases[key].expected
  ]
  if not paired:
    reason = 'expects the same answer' if shared else 'is in both'
    raise ValueError(
      f'{first.folder} and {second.folder} are of different sets: no case {reason}; '
      f'the first are {_name(next(iter(first.cases)))} and '
      f'{_name(next(iter(second.cases)))}'
    )
  return {
    'first': _describe(first, second),
    'second': _describe(second, first),
    'cases': len(paired),
    'other_answer_expected': _by_task(key for key in shared if key not in set(paired)),
    'tasks': {
      task: _compare_task(task, [(task, case_id) for case_id in ids], first, second)
      for task, ids in _by_task(paired).items()
    },
  }


def _by_task(keys: Iterable[Key]) -> dict[str, list[str]]:
  """Return the ids of each task."""
  ids: dict[str, list[str]] = {}
  for task, case_id in keys:
    ids.setdefault(task, []).append(case_id)
  return ids


def _name(key: Key) -> str:
  return f'{key[1]!r} of {key[0]}'


def _describe(one: Measured, other: Measured) -> dict[str, Any]:
  """Return the folder, its model, and the cases that the other one lacks."""
  return {
    'folder': str(one.folder),
    'model': one.report.get('model'),
    'only_here': _by_task(key for key in one.cases if key not in other.cases),
  }


def _check_same(key: Key, first: Measured, second: Measured) -> None:
  """Raise ValueError if a case says something else in the other report."""
  one, other = first.cases[key], second.cases[key]
  fields = {
    'turns': (_said(one), _said(other)),
    'group': (one.group, other.group),
  }
  for field, (a, b) in fields.items():
    if a != b:
      raise ValueError(
        f'{first.folder} and {second.folder} are of different sets: `{field}` of case '
        f'{_name(key)} differs. Evaluate both on the same manifest'
      )


def _said(case: CaseRecord) -> list[Any]:
  """Return what a case says, without how it was heard."""
  return [
    (
      turn.role,
      [
        (part.text, part.degradation) if isinstance(part, SpokenPart) else part
        for part in turn.content
      ],
    )
    for turn in case.turns
  ]


def _compare_task(
  task: str, keys: Sequence[Key], first: Measured, second: Measured
) -> dict[str, Any]:
  settings = second.tasks.get(task) or first.tasks.get(task) or {}
  metrics, binary = settings.get('metrics') or [], bool(settings.get('binary'))
  pairs = [(first.cases[key], second.cases[key]) for key in keys]
  arms = order_arms(
    arm for one, other in pairs for arm in one.answers if arm in other.answers
  )
  compared = {arm: _compare_arm(pairs, metrics, binary, arm) for arm in arms}
  return {
    'cases': len(pairs),
    'binary': binary,
    'metrics': metrics,
    'arms': {arm: entry for arm, entry in compared.items() if entry},
    'unpaired': {
      metric: {
        arm: [_pooled(report, task, arm, metric) for report in (first, second)]
        for arm in arms
      }
      for metric in metrics
      if not any(metric in entry for entry in compared.values())
      and any(_pooled(second, task, arm, metric) is not None for arm in arms)
    },
  }


def _pooled(measured: Measured, task: str, arm: str, metric: str) -> float | None:
  """Return a metric of all cases together, such as BLEU, from report.json."""
  arms = (measured.tasks.get(task) or {}).get('arms') or {}
  return ((arms.get(arm) or {}).get(metric) or {}).get('value')


def _compare_arm(
  pairs: Sequence[tuple[CaseRecord, CaseRecord]],
  metrics: Sequence[str],
  binary: bool,
  arm: str,
) -> dict[str, Any]:
  """Compare every metric that both reports have case by case."""
  compared = {}
  for metric in metrics:
    scores = [
      (one.line, (one.score(arm, metric), other.score(arm, metric)))
      for one, other in pairs
    ]
    known = [(line, pair) for line, pair in scores if None not in pair]
    if known:
      is_tested = binary and metric == metrics[0]
      lines = number_lines([line for line, _ in known])
      values = np.array([pair for _, pair in known], np.float64)
      compared[metric] = _compare_scores(values, is_tested, lines)
  return compared


def _compare_scores(
  scores: Float[np.ndarray, 'n 2'], binary: bool, lines: Lines
) -> dict[str, Any]:
  """Compare the (first, second) scores of n cases."""
  first, second = scores.T
  compared = {
    'cases': len(scores),
    'first': float(first.mean()),
    'second': float(second.mean()),
    **compare_values(second, first, binary, lines),
  }
  if binary:
    right = scores > 0.5
    compared['only_first_right'] = int((right[:, 0] & ~right[:, 1]).sum())
    compared['only_second_right'] = int((right[:, 1] & ~right[:, 0]).sum())
  return compared
