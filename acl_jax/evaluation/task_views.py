# SPDX-License-Identifier: Apache-2.0
"""The tasks of report.json as a page shows them: cells, charts and sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from acl_jax.evaluation.labels import (
  Scale,
  comparison_label,
  describe_metric,
  is_lower_better,
  order_arms,
  task_label,
  task_scale,
  task_summary,
)
from acl_jax.evaluation.task_charts import (
  CurveChart,
  GroupedBars,
  Measured,
  Strip,
  strip,
)
from acl_jax.evaluation.task_groups import (
  KEYS,
  group_label,
  make_charts,
  measured,
  to_float,
)

TOLD = 'can be told from chance'


class Cell(NamedTuple):
  """A value of a table as text; all are None if it was not measured."""

  value: str | None = None
  interval: str | None = None
  strip: Strip | None = None


class Comparison(NamedTuple):
  """Two arms compared in words; `outcome` is 'better', 'worse' or 'even'."""

  label: str
  outcome: str
  verdict: str
  difference: str
  tests: str


class Row(NamedTuple):
  """A row of a table by arm."""

  label: str
  cases: int | None
  cells: Mapping[str, Cell]


class TaskView(NamedTuple):
  """What the page shows of a task."""

  name: str
  label: str
  summary: str
  cases: int
  counted: str  # the cases, and the lines that they are of if those are fewer
  metric: str
  headline: Mapping[str, Cell]  # by arm
  arms: list[str]
  metrics: list[Row]
  groups: list[Row]  # of the headline metric
  bars: GroupedBars | None
  curves: list[CurveChart]
  comparisons: list[Comparison]
  signature: str


def known_arms(tasks: Mapping[str, Any]) -> list[str]:
  """Return the arms of all tasks, in the order of the labels."""
  return order_arms(arm for task in tasks.values() for arm in task.get('arms') or {})


def make_views(tasks: Mapping[str, Any]) -> list[TaskView]:
  """Return the views of `tasks` of report.json, in their order."""
  return [_make_view(name, task) for name, task in tasks.items()]


def make_overview(views: Sequence[TaskView]) -> dict[str, dict[str, list[str]]]:
  """Return the tasks by comparison and outcome, in the order better, worse, even."""
  overview: dict[str, dict[str, list[str]]] = {}
  for view in views:
    for comparison in view.comparisons:
      outcomes = overview.setdefault(
        comparison.label, {'better': [], 'worse': [], 'even': []}
      )
      outcomes[comparison.outcome].append(view.label)
  return overview


def _count(task: Mapping[str, Any]) -> str:
  cases, lines = task.get('cases') or 0, task.get('lines')
  return f'{cases} cases' + (f' of {lines} lines' if lines and lines < cases else '')


def _make_view(name: str, task: Mapping[str, Any]) -> TaskView:
  arms = order_arms(task.get('arms') or {})
  metrics = task.get('metrics') or []
  headline = metrics[0] if metrics else ''
  scales = {metric: task_scale(task, metric) for metric in metrics}
  scale = scales.get(headline, Scale(True, 1.0))
  groups = task.get('groups') or {}
  bars, curves = make_charts(task, groups, headline, scale)
  return TaskView(
    name=name,
    label=task_label(name),
    summary=task_summary(name),
    cases=task.get('cases') or 0,
    counted=_count(task),
    metric=describe_metric(headline),
    headline=make_cells(task, headline, scale),
    arms=arms,
    metrics=[
      Row(describe_metric(metric), None, make_cells(task, metric, scales[metric]))
      for metric in metrics
    ],
    groups=[
      Row(group_label(group), part.get('cases'), make_cells(part, headline, scale))
      for group, part in groups.items()
    ],
    bars=bars,
    curves=curves,
    comparisons=list(make_comparisons(task)),
    signature=task.get('signature') or '',
  )


def make_cells(part: Mapping[str, Any], metric: str, scale: Scale) -> dict[str, Cell]:
  """Return the cells of a metric by arm, of a task or a group."""
  return {arm: _make_cell(measured(part, arm, metric), scale) for arm in part['arms']}


def _make_cell(value: Measured | None, scale: Scale) -> Cell:
  if value is None:
    return Cell()
  interval = None
  if value.low is not None and value.high is not None:
    interval = f'{scale.format(value.low)} to {scale.format(value.high)}'
  return Cell(scale.format(value.value), interval, strip(value, scale))


def make_comparisons(task: Mapping[str, Any]) -> Iterator[Comparison]:
  """Yield the comparisons of a task in words."""
  for name, comparison in (task.get('comparisons') or {}).items():
    if not comparison or not comparison.get('difference'):
      continue
    metric, difference = comparison['metric'], comparison['difference']
    scale, verdict = task_scale(task, metric), comparison.get('verdict') or ''
    numbers = [to_float(difference.get(key)) for key in KEYS]
    value, low, high = map(scale.format_difference, numbers)
    tests = []
    if comparison.get('mcnemar_p') is not None:
      tests.append(f"McNemar's exact test {format_p(float(comparison['mcnemar_p']))}")
    if comparison.get('kappa') is not None:
      tests.append(f"Cohen's κ {comparison['kappa']:.2f}".replace('-', '−'))
    yield Comparison(
      comparison_label(name),
      outcome(metric, numbers[0], verdict),
      verdict,
      f'{value}{scale.unit} of {describe_metric(metric)} '
      f'(95\N{NO-BREAK SPACE}% interval {low} to {high})',
      ', '.join(tests),
    )


def outcome(metric: str, difference: float | None, verdict: str) -> str:
  """Return 'better' or 'worse' if a difference can be told from chance, else 'even'."""
  if verdict != TOLD or not difference:
    return 'even'
  return 'better' if (difference < 0) == is_lower_better(metric) else 'worse'


def format_p(p: float) -> str:
  """Return a p-value as 'p = 0.031' or 'p < 0.001'."""
  text = 'p < 0.001' if p < 0.001 else f'p = {p:.3f}'
  return text.replace(' ', '\N{NO-BREAK SPACE}')
