# SPDX-License-Identifier: Apache-2.0
"""A comparison of two reports as a table in a terminal and as `compare.html`."""

import os.path
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acl_jax.evaluation.case_records import SpokenPart
from acl_jax.evaluation.comparison import Measured
from acl_jax.evaluation.labels import (
  Scale,
  arm_label,
  describe_metric,
  scale_of,
  task_label,
)
from acl_jax.evaluation.page import render_page
from acl_jax.evaluation.page_examples import (
  AnswerView,
  clip,
  describe_expected,
  is_right,
  make_answers,
)
from acl_jax.evaluation.statistics import SIGNIFICANCE
from acl_jax.evaluation.task_views import format_p, outcome

MAX_CHANGED = 20  # cases of each task that are shown, half of them each way
MAX_NAMED = 20  # cases that are named because one report lacks them


class ComparedRow(NamedTuple):
  """The headline of an arm of a task in both reports, as text."""

  task: str
  metric: str
  arm: str
  arm_label: str
  cases: int
  first: str
  second: str
  difference: str
  interval: str
  p: str
  kappa: str
  outcome: str  # of the second: 'better', 'worse' or 'even'
  verdict: str


class ChangedCase(NamedTuple):
  """A case whose audio only one of the reports answers rightly."""

  task: str
  id: str
  better: str
  said: str
  expected: str
  first: AnswerView
  second: AnswerView


def name_folders(compared: Mapping[str, Any]) -> tuple[str, str]:
  """Return short names of the two folders that differ."""
  first, second = (compared[side]['folder'] for side in ('first', 'second'))
  names = Path(first).resolve().name, Path(second).resolve().name
  return names if names[0] != names[1] else (first, second)


def make_rows(compared: Mapping[str, Any]) -> Iterator[ComparedRow]:
  """Yield a row for each metric and arm of each task."""
  for task, entry in compared['tasks'].items():
    for metric in entry['metrics']:
      values = [
        value
        for arm in entry['arms'].values()
        if metric in arm
        for value in (arm[metric]['first'], arm[metric]['second'])
      ]
      scale = scale_of(metric, values)
      for name, arm in entry['arms'].items():
        if metric in arm:
          yield _make_row(task, metric, name, arm[metric], scale)


def _make_row(
  task: str, metric: str, name: str, values: Mapping[str, Any], scale: Scale
) -> ComparedRow:
  difference = values['difference']
  low, high = difference['low'], difference['high']
  interval = ''
  if low is not None and high is not None:
    interval = f'{scale.format_difference(low)} to {scale.format_difference(high)}'
  p, kappa = values['mcnemar_p'], values['kappa']
  return ComparedRow(
    task=task_label(task),
    metric=describe_metric(metric),
    arm=name,
    arm_label=arm_label(name).label,
    cases=values['cases'],
    first=scale.format(values['first']),
    second=scale.format(values['second']),
    difference=scale.format_difference(difference['value']),
    interval=interval,
    p='' if p is None else format_p(p),
    kappa='' if kappa is None else f'{kappa:.2f}'.replace('-', '−'),
    outcome=outcome(metric, difference['value'], values['verdict']),
    verdict=values['verdict'],
  )


def count_tests(rows: Sequence[ComparedRow]) -> str:
  """Return how many differences are expected to stand out by chance alone."""
  tests = len(rows)
  return (
    f'{tests} differences were tested; at {SIGNIFICANCE:.0%} each, about '
    f'{SIGNIFICANCE * tests:.1f} would stand out by chance alone.'
  )


def describe_missing(compared: Mapping[str, Any]) -> list[str]:
  """Return a sentence for each task and reason why cases were left out."""
  names = name_folders(compared)
  groups = [
    (f'are only in {name}', compared[side]['only_here'])
    for side, name in zip(('first', 'second'), names, strict=True)
  ]
  groups.append(('expect another answer', compared['other_answer_expected']))
  sentences = []
  for reason, by_task in groups:
    for task, ids in by_task.items():
      named = ', '.join(ids[:MAX_NAMED])
      more = f' and {len(ids) - MAX_NAMED} more' if len(ids) > MAX_NAMED else ''
      label = f'{task_label(task)}: {len(ids)} cases'
      sentences.append(f'{label} {reason} and were left out: {named}{more}')
  return sentences


def format_comparison(compared: Mapping[str, Any]) -> str:
  """Format a comparison for the terminal."""
  first, second = name_folders(compared)
  rows = list(make_rows(compared))
  header = ('task', 'metric', 'arm', 'n', first, second, 'difference')
  table = [(*header, '95 % interval', 'McNemar', 'kappa', 'difference …')]
  table += [
    (
      *(row.task, row.metric, row.arm, str(row.cases), row.first, row.second),
      *(row.difference, row.interval, row.p, row.kappa, row.verdict),
    )
    for row in rows
  ]
  widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
  lines = [
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    for row in table
  ]
  lines += _unpaired_sentences(compared, first, second)
  return '\n'.join([*lines, count_tests(rows), *describe_missing(compared)])


def _unpaired_sentences(
  compared: Mapping[str, Any], first: str, second: str
) -> Iterator[str]:
  """Yield a sentence for each metric that has no value by case."""
  for task, entry in compared['tasks'].items():
    for metric, arms in entry['unpaired'].items():
      values = [value for pair in arms.values() for value in pair if value is not None]
      scale = scale_of(metric, values)
      pairs = ', '.join(
        f'{arm_label(arm).label} {scale.format(a)} and {scale.format(b)}'
        for arm, (a, b) in arms.items()
      )
      yield (
        f'{task_label(task)}, {describe_metric(metric)}, of all cases of each report '
        f'together and so not tested in pairs, {first} and {second}: {pairs}.'
      )


def render_comparison(
  compared: Mapping[str, Any], first: Measured, second: Measured
) -> str:
  """Render compare.html; all text is escaped."""
  names = name_folders(compared)
  rows = list(make_rows(compared))
  return render_page(
    'compare.html.jinja',
    f'{names[0]} and {names[1]}',
    ['report.css', 'tasks.css'],
    None,
    first=names[0],
    second=names[1],
    paths=[os.path.abspath(side.folder) for side in (first, second)],
    cases=compared['cases'],
    rows=rows,
    notes=[
      *_unpaired_sentences(compared, *names),
      count_tests(rows),
      *describe_missing(compared),
    ],
    changed=list(_changed_cases(compared, first, second, names)),
  )


def _changed_cases(
  compared: Mapping[str, Any], first: Measured, second: Measured, names: tuple[str, str]
) -> Iterator[ChangedCase]:
  """Yield cases whose audio only one of the reports answers rightly."""
  for task in compared['tasks']:
    settings = second.tasks.get(task) or first.tasks.get(task) or {}
    left = {name: MAX_CHANGED // 2 for name in names}
    for key, one in first.cases.items():
      other = second.cases.get(key)
      if key[0] != task or other is None:
        continue
      rights = [is_right(case, settings, 'audio') for case in (one, other)]
      if None in rights or rights[0] == rights[1]:
        continue
      better = names[0] if rights[0] else names[1]
      if left[better]:
        left[better] -= 1
        views = [
          next(view for view in make_answers(case, settings) if view.arm == 'audio')
          for case in (one, other)
        ]
        said = ' '.join(
          part.text if isinstance(part, SpokenPart) else part
          for part in one.turns[-1].content
        )
        yield ChangedCase(
          task=task_label(task),
          id=clip(one.id),
          better=better,
          said=clip(said),
          expected=describe_expected(one.expected),
          first=views[0],
          second=views[1],
        )
