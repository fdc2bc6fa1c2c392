# SPDX-License-Identifier: Apache-2.0
"""`report.html` and `report.md`, from what `evaluate` measured."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from acl_jax.evaluation.case_records import CaseRecord, read_cases, read_report
from acl_jax.evaluation.charts import LineChart, bar_chart, line_chart
from acl_jax.evaluation.markdown_report import format_markdown
from acl_jax.evaluation.page import format_number, format_percent, render_page
from acl_jax.evaluation.page_examples import make_examples
from acl_jax.evaluation.summary import describe_significance, gap_closed
from acl_jax.evaluation.task_views import known_arms, make_overview, make_views
from acl_jax.runtime.files import write_atomically


class ConditionLabel(NamedTuple):
  """How the report presents a condition."""

  label: str
  model_input: str
  css_class: str


CONDITION_LABELS = {
  'text': ConditionLabel('Text', 'the written transcript', 'text'),
  'audio': ConditionLabel('Audio', 'the audio', 'audio'),
  'cascade': ConditionLabel('Cascade', 'the Whisper transcript', 'cascade'),
  'cascade_ctc': ConditionLabel('CTC cascade', 'its own CTC transcript', 'cascade'),
  'shuffled_audio': ConditionLabel(
    'Shuffled audio', 'the audio of another example', 'guard'
  ),
  'no_prompt': ConditionLabel('No prompt', 'an empty turn', 'guard'),
}
WER_LABELS = {'cascade': 'Whisper', 'ctc': 'CTC'}
STAGE_TITLES = {
  'ctc': 'CTC stage: nats per transcript token, by step',
  'response': 'Response stage: nats per response token, by step',
}


@dataclasses.dataclass(frozen=True)
class ReportExample:
  """An example to look at and to listen to."""

  id: str
  waveform: Float32[np.ndarray, ' samples']
  log_mel: Float[np.ndarray, 't m']
  text: str
  cascade_transcript: str | None
  ctc_transcript: str | None
  reference_response: str
  audio_response: str
  nll: Mapping[str, float]  # of the reference response, by condition


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
  """Return the (step, loss) points of each stage, from a run's metrics.jsonl.

  Losses that are not finite are skipped. ValueError names a malformed line.
  """
  curves: dict[str, list[tuple[int, float]]] = {}
  for number, line in enumerate(metrics.read_text().splitlines(), 1):
    try:
      entry = json.loads(line)
      stage, step, loss = entry['stage'], int(entry['step']), float(entry['loss'])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{metrics} line {number}: expected JSON with `stage`, `step` and `loss` '
        f'({error!r})'
      ) from None
    if math.isfinite(loss):
      curves.setdefault(str(stage), []).append((step, loss))
  return curves


def write_pages(
  folder: Path,
  title: str,
  examples: Sequence[ReportExample] = (),
  curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> None:
  """Write report.html and report.md from a folder's report.json and cases.jsonl.

  Paths of audio in cases.jsonl are relative to the folder. For the other arguments
  see `render`. ValueError names what is malformed.
  """
  report, cases = read_report(folder), read_cases(folder)
  page = render(report, examples, curves or {}, title, cases, folder)
  write_atomically(folder / 'report.html', page)
  write_atomically(folder / 'report.md', format_markdown(report, title))


def render(
  report: Mapping[str, Any],
  examples: Sequence[ReportExample],
  curves: Mapping[str, Sequence[tuple[int, float]]],
  title: str,
  cases: Sequence[CaseRecord] = (),
  folder: Path = Path(),
) -> str:
  """Render the page; all text is escaped.

  Args:
    report: The content of `report.json`; likelihoods and tasks are shown if there.
    examples: Of the likelihoods, with audio players and spectrograms.
    curves: (step, loss) points by training stage; may be empty.
    title: Heading of the page.
    cases: Of the tasks; some are shown.
    folder: What the paths of audio in the cases are relative to.
  """
  tasks = report.get('tasks') or {}
  views = make_views(tasks)
  return render_page(
    'report.html.jinja',
    title,
    ['report.css', 'tasks.css'] if tasks else ['report.css'],
    'cases.js' if tasks and cases else None,
    report=report,
    model_json=json.dumps(report.get('model'), indent=2),
    training_charts=_make_training_charts(curves),
    examples=examples,
    views=views,
    overview=make_overview(views),
    arms=known_arms(tasks),
    cases=make_examples(tasks, cases, folder),
    num_cases=len(cases),
    **_describe_likelihoods(report),
  )


def _describe_likelihoods(report: Mapping[str, Any]) -> dict[str, Any]:
  """Return what the page needs to show the likelihoods, if they were measured."""
  if 'response_nll' not in report:
    return {}
  nll = report['response_nll']
  return {
    'conditions': CONDITION_LABELS,
    'gap_closed': {name: gap_closed(nll, name) for name in CONDITION_LABELS},
    'intervals': _make_interval_rows(report),
    'nll_chart': bar_chart(
      'Negative log-likelihood of the response, nats per token',
      [
        (condition.label, nll[name], condition.css_class)
        for name, condition in CONDITION_LABELS.items()
      ],
    ),
  }


def _make_training_charts(
  curves: Mapping[str, Sequence[tuple[int, float]]],
) -> list[tuple[LineChart, float]]:
  """Return the chart of each stage and its final loss."""
  charts = []
  for stage, points in curves.items():
    stage_title = STAGE_TITLES.get(stage, f'{stage}: loss by step')
    _, final_loss = points[-1]
    charts.append((line_chart(stage_title, points), final_loss))
  return charts


class IntervalRow(NamedTuple):
  """A row of the table of intervals, as text."""

  label: str
  value: str
  low: str
  high: str
  verdict: str  # empty where 0 has no meaning


def _make_interval_rows(report: Mapping[str, Any]) -> list[IntervalRow]:
  """Return a row for each interval that was measured."""
  rows = []

  def add(label, interval, key, format_value, verdict=''):
    value, low, high = (format_value(interval[k]) for k in (key, 'low', 'high'))
    rows.append(IntervalRow(label, value, low, high, verdict))

  for name, interval in report['gap_closed'].items():
    if interval is not None:
      label = f'Gap closed: {CONDITION_LABELS[name].label}'
      add(label, interval, 'value', format_percent)
  for name, interval in report['differences'].items():
    if interval is not None:
      first, second = (CONDITION_LABELS[part].label for part in name.split(' - '))
      verdict = describe_significance(interval)
      add(f'Nats: {first} − {second}', interval, 'nats', format_number, verdict)
  for name, interval in report['wer_interval'].items():
    if interval is not None:
      add(f'Word errors: {WER_LABELS[name]}', interval, 'value', format_percent)
  return rows
