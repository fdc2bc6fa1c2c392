# SPDX-License-Identifier: Apache-2.0
"""`report.html`: one self-contained file with the metrics and some examples."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float, Float32

from acl_jax.evaluation.charts import bar_chart, line_chart
from acl_jax.evaluation.media import mp3_data_url, spectrogram_data_url
from acl_jax.evaluation.summary import describe_significance, gap_closed
from acl_jax.evaluation.word_diff import diff_words

TEMPLATES = Path(__file__).parent / 'templates'


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


def render(
  report: Mapping[str, Any],
  examples: Sequence[ReportExample],
  curves: Mapping[str, Sequence[tuple[int, float]]],
  title: str,
) -> str:
  """Render the page; all text is escaped.

  Args:
    report: The content of `report.json`.
    examples: To be shown with audio players and spectrograms.
    curves: (step, loss) points by training stage; may be empty.
    title: Heading of the page.
  """
  nll = report['response_nll']
  nll_chart = bar_chart(
    'Negative log-likelihood of the response, nats per token',
    [
      (condition.label, nll[name], condition.css_class)
      for name, condition in CONDITION_LABELS.items()
    ],
  )
  training_charts = []
  for stage, points in curves.items():
    stage_title = STAGE_TITLES.get(stage, f'{stage}: loss by step')
    _, final_loss = points[-1]
    training_charts.append((line_chart(stage_title, points), final_loss))
  template = _environment().get_template('report.html.jinja')
  return template.render(
    title=title,
    report=report,
    model_json=json.dumps(report['model'], indent=2),
    conditions=CONDITION_LABELS,
    gap_closed={name: gap_closed(nll, name) for name in CONDITION_LABELS},
    intervals=_make_interval_rows(report),
    nll_chart=nll_chart,
    training_charts=training_charts,
    examples=examples,
  )


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
      add(label, interval, 'value', _format_percent)
  for name, interval in report['differences'].items():
    if interval is not None:
      first, second = (CONDITION_LABELS[part].label for part in name.split(' - '))
      verdict = describe_significance(interval)
      add(f'Nats: {first} − {second}', interval, 'nats', _format_number, verdict)
  for name, interval in report['wer_interval'].items():
    if interval is not None:
      add(f'Word errors: {WER_LABELS[name]}', interval, 'value', _format_percent)
  return rows


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['number'] = _format_number
  environment.filters['percent'] = _format_percent
  environment.filters['mp3_data_url'] = mp3_data_url
  environment.filters['spectrogram_data_url'] = spectrogram_data_url
  environment.globals['diff_words'] = diff_words
  return environment


def _format_number(value: float | None) -> str:
  return '–' if value is None else f'{value:.3f}'


def _format_percent(share: float | None) -> str:
  return '–' if share is None else f'{share:.1%}'
