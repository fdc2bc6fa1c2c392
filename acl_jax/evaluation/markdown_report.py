# SPDX-License-Identifier: Apache-2.0
"""`report.md`: the plain numbers of report.json."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from acl_jax.evaluation.labels import arm_label
from acl_jax.evaluation.task_views import Cell, Row, TaskView, known_arms, make_views

_ESCAPED = str.maketrans({c: f'\\{c}' for c in '\\`*_[]<>|#&~'})


def format_markdown(report: Mapping[str, Any], title: str) -> str:
  """Return the report as Markdown: tasks by arm, then all metrics and likelihoods."""
  tasks = report.get('tasks') or {}
  lines = [f'# {escape(title)}', '']
  if tasks:
    views, arms = make_views(tasks), known_arms(tasks)
    rows = [
      Row(f'{view.label}: {view.metric}', view.cases, view.headline) for view in views
    ]
    lines += [*_arm_table('Task', rows, arms), '']
    lines += [
      'Values have 95 % bootstrap intervals over the lines of the manifest.',
      '',
    ]
    for view in views:
      lines += [*_describe_task(view), '']
  if 'response_nll' in report:
    lines += [*_describe_likelihoods(report), '']
  if report.get('skipped'):
    lines += [f'{len(report["skipped"])} skipped.', '']
  model = json.dumps(report.get('model'), indent=2, ensure_ascii=False)
  lines += ['## The model', '', *('    ' + line for line in model.splitlines()), '']
  return '\n'.join(lines)


def _describe_task(view: TaskView) -> Iterator[str]:
  yield f'## {escape(view.label)}'
  yield ''
  yield from _arm_table('Metric', view.metrics, view.arms)
  if view.groups:
    yield ''
    yield from _arm_table(f'Group: {view.metric}', view.groups, view.arms)
  if view.comparisons:
    yield ''
  for comparison in view.comparisons:
    tests = f' {comparison.tests}.' if comparison.tests else ''
    yield escape(
      f'- {comparison.label}: {comparison.difference}.{tests} The difference '
      f'{comparison.verdict}.'
    )
  if view.signature:
    yield ''
    yield f'Signature: {escape(view.signature)}'


def _arm_table(first: str, rows: Sequence[Row], arms: Sequence[str]) -> Iterator[str]:
  counted = any(row.cases is not None for row in rows)
  header = [first, *(['Cases'] if counted else []), *(arm_label(a).label for a in arms)]
  yield table_row(header)
  yield '|---|' + '---:|' * (len(header) - 1)
  for row in rows:
    cells = [_format_cell(row.cells.get(arm)) for arm in arms]
    cases = [str('–' if row.cases is None else row.cases)] if counted else []
    yield table_row([row.label, *cases, *cells])


def _format_cell(cell: Cell | None) -> str:
  if cell is None or cell.value is None:
    return '–'
  return f'{cell.value} ({cell.interval})' if cell.interval else cell.value


def _describe_likelihoods(report: Mapping[str, Any]) -> Iterator[str]:
  yield '## Likelihoods'
  yield ''
  yield table_row(['Given', 'Nats per token', 'Perplexity', 'Same token'])
  yield '|---|---:|---:|---:|'
  for name, nll in report['response_nll'].items():
    values = (
      nll,
      report['response_perplexity'].get(name),
      report['greedy_agreement'].get(name),
    )
    yield table_row([name, *('–' if v is None else f'{v:.3f}' for v in values)])


def table_row(cells: Iterable[str]) -> str:
  """Return a row of a Markdown table; the cells are escaped."""
  return '| ' + ' | '.join(map(escape, cells)) + ' |'


def escape(text: str) -> str:
  """Return a text on one line that Markdown shows as it is."""
  return ' '.join(text.split()).translate(_ESCAPED)
