# SPDX-License-Identifier: Apache-2.0
"""`report.html`: one file for a person to look at and listen to, nothing loaded."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from acl_jax.evaluation import pictures
from acl_jax.evaluation.markup import Markup, join, mark_differences, tag
from acl_jax.evaluation.stylesheet import STYLE
from acl_jax.evaluation.summary import gap_closed

# Key of the report: its name, what the LLM is given, and how its bar looks.
CONDITIONS = {
  'text': ('Text', 'the written transcript', 'text'),
  'audio': ('Audio', 'the recording', 'audio'),
  'cascade': ('Cascade', 'what Whisper wrote down', 'cascade'),
  'cascade_ctc': ('Own ears, as text', 'the words its own encoder heard', 'cascade'),
  'shuffled_audio': ('Shuffled audio', 'the recording of another example', 'guard'),
  'no_prompt': ('No prompt', 'an empty turn', 'guard'),
}
STAGES = {
  'ctc': 'Learning to hear, nats per token of the transcript',
  'response': 'Learning to be answered, nats per token of the response',
}
NO_NETWORK = (
  "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
)


@dataclasses.dataclass(frozen=True)
class Shown:
  """An example to look at and to listen to."""

  id: str
  sound: Float32[np.ndarray, ' samples']
  log_mel: Float[np.ndarray, 't m']
  text: str
  cascade: str | None
  heard: str | None
  response: str
  answer: str  # to the recording
  nll: Mapping[str, float]  # of the response, by condition


def read_curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
  """(step, loss) points of each stage of a training run."""
  curves: dict[str, list[tuple[int, float]]] = {}
  for number, line in enumerate(metrics.read_text().splitlines(), 1):
    try:
      entry = json.loads(line)
      stage, step, loss = entry['stage'], int(entry['step']), float(entry['loss'])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{metrics} line {number}: is no metrics ({error!r})') from None
    if math.isfinite(loss):
      curves.setdefault(str(stage), []).append((step, loss))
  return curves


def render(
  report: Mapping[str, Any],
  shown: Sequence[Shown],
  curves: Mapping[str, Sequence[tuple[int, float]]],
  title: str,
) -> str:
  """The whole page."""
  head = tag(
    'head',
    tag('meta', charset='utf-8'),
    tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
    tag('meta', http_equiv='Content-Security-Policy', content=NO_NETWORK),
    tag('title', title),
    tag('style', Markup(STYLE)),
  )
  sections = [
    *_headline(report, title),
    *_comparison(report),
    *_training(curves),
    *_examples(shown, report['examples']),
    *_skipped(report['skipped']),
    tag('h2', 'The model'),
    tag('pre', tag('code', json.dumps(report['model'], indent=2)), class_='scroll'),
  ]
  page = tag('html', head, tag('body', *sections), lang='en')
  return f'<!doctype html>\n{page}\n'


def _headline(report: Mapping[str, Any], title: str) -> list[Markup]:
  nll, wer, same = (report[k] for k in ('response_nll', 'wer', 'greedy_agreement'))
  closed = {name: _percent(gap_closed(nll, name)) for name in CONDITIONS}
  tiles = [
    (
      closed['audio'],
      'of the gap closed by audio',
      'between the wrong recording (0%) and the text (100%); the cascade closes '
      f'{closed["cascade"]}, its own ears as text {closed["cascade_ctc"]}',
    ),
    (
      _number(nll['audio']),
      'nats per response token',
      f'given the recording; {_number(nll["text"])} given the text',
    ),
    (
      _percent(same['audio']),
      'same next token as for the text',
      f'given the recording; {_percent(same["cascade"])} in the cascade',
    ),
    (
      _percent(wer['cascade'] if wer['ctc'] is None else wer['ctc']),
      'word error rate' + (' of Whisper' if wer['ctc'] is None else ' of its own ears'),
      'before the LLM comes in'
      + ('' if wer['ctc'] is None else f'; Whisper has {_percent(wer["cascade"])}'),
    ),
  ]
  lead = (
    'The chat model is frozen. Measured is how well it predicts the answer to the '
    'written transcript when it is given something else instead: above all, the '
    'recording.'
  )
  return [
    tag('h1', title),
    tag('p', f'{report["examples"]} examples, {len(report["skipped"])} skipped'),
    tag('p', lead, class_='lead'),
    tag(
      'div',
      *(
        tag('div', tag('b', a), tag('span', b), tag('small', c), class_='tile')
        for a, b, c in tiles
      ),
      class_='tiles',
    ),
  ]


def _comparison(report: Mapping[str, Any]) -> list[Markup]:
  nll = report['response_nll']
  title = 'Negative log-likelihood of the response, nats per token'
  bars = [
    pictures.Bar(label, nll[name], kind)
    for name, (label, _, kind) in CONDITIONS.items()
  ]
  rows = []
  for name, (label, given, kind) in CONDITIONS.items():
    wer = {'cascade': 'cascade', 'cascade_ctc': 'ctc'}.get(name)
    values = [
      _number(nll[name]),
      _number(report['response_perplexity'][name]),
      '–' if name == 'no_prompt' else _percent(gap_closed(nll, name)),
      _percent(report['greedy_agreement'].get(name)),
      _percent(report['wer'][wer]) if wer else '–',
    ]
    cells = (tag('td', value, class_='number') for value in values)
    rows.append(
      tag('tr', tag('td', label), tag('td', given, class_='soft'), *cells, class_=kind)
    )
  names = ('Nats', 'Perplexity', 'Gap closed', 'Same token', 'Word errors')
  head = tag(
    'tr',
    tag('th', 'Condition'),
    tag('th', 'The model is given'),
    *(tag('th', name, class_='number') for name in names),
  )
  caption = (
    f'{title}: shorter is better. Text is the bound. A model that ignores its audio '
    'would do as well with the recording of another example.'
  )
  return [
    tag('h2', 'Six ways to ask'),
    tag('figure', pictures.bar_chart(bars, title), tag('figcaption', caption)),
    tag('div', tag('table', tag('thead', head), tag('tbody', *rows)), class_='scroll'),
  ]


def _training(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[Markup]:
  parts = []
  for stage, points in curves.items():
    title = f'{STAGES.get(stage, stage)}: loss by step'
    chart = pictures.line_chart(points, title)
    caption = f'{title}, at the end {points[-1][1]:.3f}.'
    parts.append(tag('figure', chart, tag('figcaption', caption)))
  return [tag('h2', 'How it learned'), *parts] if parts else []


def _examples(shown: Sequence[Shown], count: int) -> list[Markup]:
  if not shown:
    return []
  note = (
    f'{len(shown)} of {count}, drawn at random. Marked words differ from the '
    'transcript.'
  )
  return [tag('h2', 'Examples'), tag('p', note), *map(_example, shown)]


def _example(example: Shown) -> Markup:
  costs = ' · '.join(
    f'{CONDITIONS[name][0].lower()} {example.nll[name]:.2f}'
    for name in ('text', 'audio', 'cascade')
    if name in example.nll
  )
  lines = [('Said', join(example.text), '')]
  for label, words in (
    ('Whisper heard', example.cascade),
    ('Own ears heard', example.heard),
  ):
    if words is not None:
      lines.append((label, mark_differences(example.text, words), ''))
  lines += [
    ('Answer to the text', join(example.response), ''),
    ('Answer to the audio', join(example.answer), 'audio'),
  ]
  terms = (
    part
    for label, words, kind in lines
    for part in (tag('dt', label), tag('dd', words or '(nothing)', class_=kind))
  )
  return tag(
    'article',
    tag('header', tag('code', example.id), tag('span', f'nats: {costs}')),
    tag('audio', controls=True, preload='none', src=pictures.sound_url(example.sound)),
    tag('img', src=pictures.spectrogram(example.log_mel), alt='log-mel spectrogram'),
    tag('dl', *terms),
    class_='example',
  )


def _skipped(skipped: Sequence[Mapping[str, str]]) -> list[Markup]:
  if not skipped:
    return []
  rows = [
    tag('tr', tag('td', tag('code', skip['id'])), tag('td', skip['reason']))
    for skip in skipped
  ]
  return [tag('h2', f'Skipped: {len(skipped)}'), tag('table', tag('tbody', *rows))]


def _number(value: float | None) -> str:
  return '–' if value is None else f'{value:.3f}'


def _percent(share: float | None) -> str:
  return '–' if share is None else f'{share:.1%}'
