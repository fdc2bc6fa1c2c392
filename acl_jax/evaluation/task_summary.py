# SPDX-License-Identifier: Apache-2.0
"""`tasks` of report.json: metrics by arm and group, and arms compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acl_jax.evaluation import statistics
from acl_jax.evaluation.runner import TaskResult
from acl_jax.evaluation.statistics import Json, Pool
from acl_jax.evaluation.tasks.task import Answer, Case, Task

COMPARISONS = (('audio', 'cascade'), ('audio', 'cascade_ctc'), ('audio', 'text'))

Scores = Sequence[Mapping[str, float]]  # of each case


def complete_cases(task: Task, result: TaskResult) -> TaskResult:
  """Return a result with what is expected of each case.

  A task with `expected_from` may expect what was answered to the written text.
  """
  complete = getattr(task, 'expected_from', None)
  if complete is None:
    return result
  pairs = zip(result.cases, result.answers['text'], strict=True)
  return dataclasses.replace(result, cases=[complete(*pair) for pair in pairs])


def score_answers(task: Task, result: TaskResult) -> dict[str, list[dict[str, float]]]:
  """Return the scores of each case, by arm."""
  return {
    arm: [task.score(*pair) for pair in zip(result.cases, answers, strict=True)]
    for arm, answers in result.answers.items()
  }


def summarise_task(
  task: Task, result: TaskResult, scores: Mapping[str, Scores]
) -> Json:
  """Return the entry of a task; what was not measured is left out."""
  arms = {
    arm: _Arm(task, result.cases, answers, scores[arm])
    for arm, answers in result.answers.items()
  }
  groups: dict[str, list[int]] = {}
  for index, case in enumerate(result.cases):
    groups.setdefault(case.group, []).append(index)
  groups.pop('', None)
  summary: Json = {
    'cases': len(result.cases),
    'lines': count_lines(result.cases),
    'binary': task.binary,
    'metrics': list(task.metrics),
    'arms': {name: arm.summarise() for name, arm in arms.items()},
    'groups': {
      group: {
        'cases': len(indices),
        'arms': {name: arm.select(indices).summarise() for name, arm in arms.items()},
      }
      for group, indices in sorted(groups.items())
    },
    'comparisons': {
      f'{first} - {second}': arms[first].compare(arms[second])
      for first, second in COMPARISONS
      if first in arms and second in arms
    },
  }
  if signature := getattr(task, 'signature', None):
    summary['signature'] = signature
  if left_out := getattr(task, 'left_out', None):
    summary['left_out'] = list(left_out)
  return summary


def count_lines(cases: Sequence[Case]) -> int:
  """Return how many lines the cases are of."""
  return len({*_number_lines(cases).tolist()})


def _number_lines(cases: Sequence[Case]) -> statistics.Lines:
  return statistics.number_lines([case.line for case in cases])


class _Arm:
  """The answers of an arm to some cases, and their scores."""

  def __init__(
    self, task: Task, cases: Sequence[Case], answers: Sequence[Answer], scores: Scores
  ):
    self.task, self.cases, self.answers, self.scores = task, cases, answers, scores

  def select(self, indices: Sequence[int]) -> '_Arm':
    """Return the same of the cases at these indices."""
    return _Arm(
      self.task,
      [self.cases[i] for i in indices],
      [self.answers[i] for i in indices],
      [self.scores[i] for i in indices],
    )

  def summarise(self) -> Json:
    """Return every metric with its interval."""
    metrics = {}
    pooled = self.task.pool(self.cases, self.answers)
    for metric in self.task.metrics:
      pairs = zip(self.cases, self.scores, strict=True)
      scored = [(case, each[metric]) for case, each in pairs if metric in each]
      if scored:
        cases, values = zip(*scored, strict=True)
        metrics[metric] = statistics.mean_interval(
          np.array(values, np.float64), _number_lines(cases)
        )
      elif metric in pooled:
        metrics[metric] = statistics.pooled_interval(
          self._pool(metric), len(self.cases), _number_lines(self.cases)
        )
    return metrics

  def compare(self, other: '_Arm') -> Json:
    """Compare the headline metric with that of another arm, over the cases of both."""
    metric = self.task.metrics[0]
    scored = [
      (case, (mine[metric], theirs[metric]))
      for case, mine, theirs in zip(self.cases, self.scores, other.scores, strict=True)
      if metric in mine and metric in theirs
    ]
    if scored:
      cases, pairs = zip(*scored, strict=True)
      first, second = np.array(pairs, np.float64).T
      compared = statistics.compare_values(
        first, second, self.task.binary, _number_lines(cases)
      )
    else:
      mine, theirs = self._pool(metric), other._pool(metric)
      difference = statistics.pooled_difference(
        mine, theirs, len(self.cases), _number_lines(self.cases)
      )
      compared = statistics.describe_comparison(difference)
    return {'metric': metric, **compared}

  def _pool(self, metric: str) -> Pool:
    """Return the metric as a function of the indices of cases."""

    def pool(indices) -> float:
      chosen = self.select(indices.tolist())
      return self.task.pool(chosen.cases, chosen.answers)[metric]

    return pool


def format_tasks(tasks: Mapping[str, Any]) -> str:
  """Format the headline of every task and arm for the terminal, with intervals."""
  lines = []
  for name, task in tasks.items():
    metric = task['metrics'][0]
    of_lines = f' of {task["lines"]} lines' if task['lines'] < task['cases'] else ''
    lines.append(f'{name}: {metric}, {task["cases"]} cases{of_lines}')
    for arm, metrics in task['arms'].items():
      if metric in metrics:
        lines.append(f'  {arm:16}{_format(metrics[metric])}')
    for pair, compared in task['comparisons'].items():
      p_value, kappa = compared['mcnemar_p'], compared['kappa']
      tests = '' if p_value is None else f', McNemar p = {p_value:.3g}'
      tests += '' if kappa is None else f', kappa = {kappa:.2f}'
      difference = _format(compared['difference'], '+')
      lines.append(f'  {pair}: {difference}{tests}: {compared["verdict"]}')
  return '\n'.join(lines)


def _format(interval: Mapping[str, Any], sign: str = '') -> str:
  """Format a value and its bounds; '-' for what is None."""
  value, low, high = (
    '-' if interval[key] is None else format(interval[key], f'{sign}.3f')
    for key in ('value', 'low', 'high')
  )
  return f'{value} [{low}, {high}]'
