# SPDX-License-Identifier: Apache-2.0
"""Two reports compared case by case: paired intervals and tests."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from acl_jax.evaluation.bootstrap import ratio_interval, to_json
from acl_jax.evaluation.case_records import (
  CASES,
  CaseRecord,
  SpokenPart,
  read_cases,
  read_report,
)
from acl_jax.evaluation.labels import order_arms
from acl_jax.evaluation.page_examples import is_right
from acl_jax.evaluation.statistics import kappa, mcnemar
from acl_jax.evaluation.task_views import TOLD

SIGNIFICANT = 0.05
NOT_TOLD = 'cannot be told from chance'

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

  Cases are paired by task and id; those that only one report has are left out and
  named. ValueError if no case is in both, or if a case is not the same in both.
  """
  paired = [key for key in first.cases if key in second.cases]
  if not paired:
    raise ValueError(
      f'{first.folder} and {second.folder} have no case in common, so they are of '
      f'different sets; the first are {next(iter(first.cases))} and '
      f'{next(iter(second.cases))}'
    )
  for key in paired:
    _check_same(key, first, second)
  by_task: dict[str, list[Key]] = {}
  for key in paired:
    by_task.setdefault(key[0], []).append(key)
  return {
    'first': _describe(first, second),
    'second': _describe(second, first),
    'cases': len(paired),
    'tasks': {
      task: _compare_task(task, keys, first, second) for task, keys in by_task.items()
    },
  }


def _describe(one: Measured, other: Measured) -> dict[str, Any]:
  """Return the folder, its model, and the cases that the other one lacks."""
  alone: dict[str, list[str]] = {}
  for task, case_id in one.cases:
    if (task, case_id) not in other.cases:
      alone.setdefault(task, []).append(case_id)
  return {
    'folder': str(one.folder),
    'model': one.report.get('model'),
    'only_here': alone,
  }


def _check_same(key: Key, first: Measured, second: Measured) -> None:
  """Raise ValueError if a case says or expects something else in the other report."""
  one, other = first.cases[key], second.cases[key]
  fields = {
    'turns': (_said(one), _said(other)),
    'expected': (one.expected, other.expected),
    'group': (one.group, other.group),
  }
  for field, (a, b) in fields.items():
    if a != b:
      raise ValueError(
        f'{first.folder} and {second.folder} are of different sets: `{field}` of case '
        f'{key[1]!r} of {key[0]} differs. Evaluate both on the same manifest'
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
  compared = {arm: _compare_arm(pairs, settings, metrics, binary, arm) for arm in arms}
  return {
    'cases': len(pairs),
    'binary': binary,
    'metrics': metrics,
    'arms': {arm: entry for arm, entry in compared.items() if entry['metrics']},
    'unpaired': {
      metric: {
        arm: [_pooled(report, task, arm, metric) for report in (first, second)]
        for arm in arms
      }
      for metric in metrics
      if not any(metric in entry['metrics'] for entry in compared.values())
      and any(_pooled(second, task, arm, metric) is not None for arm in arms)
    },
  }


def _pooled(measured: Measured, task: str, arm: str, metric: str) -> float | None:
  """Return a metric of all cases together, such as BLEU, from report.json."""
  arms = (measured.tasks.get(task) or {}).get('arms') or {}
  return ((arms.get(arm) or {}).get(metric) or {}).get('value')


def _compare_arm(
  pairs: Sequence[tuple[CaseRecord, CaseRecord]],
  settings: Mapping[str, Any],
  metrics: Sequence[str],
  binary: bool,
  arm: str,
) -> dict[str, Any]:
  compared, tests = {}, {}
  for metric in metrics:
    scores = [
      (one.score(arm, metric), other.score(arm, metric)) for one, other in pairs
    ]
    known = np.array([pair for pair in scores if None not in pair], np.float64)
    if len(known):
      compared[metric] = _compare_scores(known)
  if binary and metrics and metrics[0] in compared:
    rights = [
      (is_right(a, settings, arm), is_right(b, settings, arm)) for a, b in pairs
    ]
    right = np.array([pair for pair in rights if None not in pair], bool)
    tests = _test_pairs(right[:, 0], right[:, 1])
  headline = next(iter(compared.values()), None)
  return {
    'metrics': compared,
    **tests,
    'verdict': None if headline is None else _judge(headline, tests),
  }


def _compare_scores(scores: np.ndarray) -> dict[str, Any]:
  """Compare (first, second) scores; shape [n 2]."""
  difference = scores[:, 1] - scores[:, 0]
  interval = to_json(ratio_interval(difference, np.ones(len(scores))))
  alone = {'value': float(difference.mean()), 'low': None, 'high': None}
  return {
    'cases': len(scores),
    'first': float(scores[:, 0].mean()),
    'second': float(scores[:, 1].mean()),
    'difference': interval or alone,
  }


def _test_pairs(
  first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']
) -> dict[str, Any]:
  return {
    'only_first_right': int((first & ~second).sum()),
    'only_second_right': int((second & ~first).sum()),
    'mcnemar_p': mcnemar(first, second),
    'kappa': kappa(first, second),
  }


def _judge(compared: Mapping[str, Any], tests: Mapping[str, Any]) -> str:
  """Return whether a difference can be told from chance: by the exact test, if any."""
  if (p := tests.get('mcnemar_p')) is not None:
    return TOLD if p < SIGNIFICANT else NOT_TOLD
  low, high = (compared['difference'][bound] for bound in ('low', 'high'))
  excludes_zero = low is not None and high is not None and (low > 0 or high < 0)
  return TOLD if excludes_zero else NOT_TOLD
