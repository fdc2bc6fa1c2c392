# SPDX-License-Identifier: Apache-2.0
"""How reports name tasks, arms and metrics, and how they write values."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class ArmLabel(NamedTuple):
  """How reports present an arm."""

  label: str
  model_input: str
  css_class: str


ARM_LABELS = {
  'text': ArmLabel('Text', 'what was said, in writing', 'text'),
  'audio': ArmLabel('Audio', 'the audio', 'audio'),
  'cascade': ArmLabel('Cascade', 'the transcript of a strong recogniser', 'cascade'),
  'cascade_ctc': ArmLabel(
    'Matched cascade', "the hard transcript of the model's own encoder", 'matched'
  ),
  'shuffled_audio': ArmLabel('Shuffled audio', 'the audio of another case', 'guard'),
  'no_audio': ArmLabel('No audio', 'nothing in place of the audio', 'absent'),
}
TASK_LABELS = {
  'spoken_qa': ('Spoken questions', 'Questions are spoken; the answer is short.'),
  'translation': ('Speech translation', 'Audio in one language, text in another.'),
  'summarisation': ('Audio summaries', 'Minutes of audio are summarised.'),
  'instructions': ('Spoken instructions', 'Requests whose constraint can be checked.'),
  'refusals': ('Refusals', 'Harmful requests are spoken; refusing them is right.'),
  'conversation': (
    'Conversations',
    'Written and spoken turns are mixed; only an earlier turn answers the last one.',
  ),
  'context': (
    'Context',
    'The turn before settles what an ambiguous or noisy word was.',
  ),
  'robustness': ('Robustness', 'The same cases with degraded audio.'),
  'voicebench': ('VoiceBench', 'The subsets that its rules score.'),
  'modality': ('Likelihoods', 'How likely the response to the text is.'),
}
METRIC_LABELS = {
  'contains': 'answer occurs',
  'strict': 'strict accuracy',
  'loose': 'loose accuracy',
  'bleu': 'BLEU',
  'chrf': 'chrF',
  'comet': 'COMET',
  'correct': 'right answers',
  'refused': 'share refused',
  'log_likelihood': 'nats of the answer',
  'rouge_l': 'ROUGE-L',
  'bert_score': 'BERTScore',
  'nll': 'nats per token',
  'wer': 'word error rate',
}
_PLAIN = re.compile(r'nll|nats|log_likelihood|ratio|comet|length')
_LOWER_IS_BETTER = re.compile(r'nll|nats|error|wer\b')


def arm_label(arm: str) -> ArmLabel:
  """Return how an arm is presented, whether it is known or not."""
  return ARM_LABELS.get(arm) or ArmLabel(sentence_case(arm), '', 'guard')


def order_arms(arms: Iterable[str]) -> list[str]:
  """Return arms without repetition, those with a label first, in their order."""
  found = dict.fromkeys(arms)
  return [arm for arm in ARM_LABELS if arm in found] + [
    arm for arm in found if arm not in ARM_LABELS
  ]


def task_label(task: str) -> str:
  """Return the name of a task on the page."""
  if task in TASK_LABELS:
    return TASK_LABELS[task][0]
  for family in ('robustness', 'voicebench'):
    if task.startswith(f'{family}_'):
      part = task_label(task.removeprefix(f'{family}_'))
      return f'{TASK_LABELS[family][0]}: {part[:1].lower()}{part[1:]}'
  return sentence_case(task)


def task_summary(task: str) -> str:
  """Return what a task does in a sentence; '' for an unknown one."""
  family = task if task in TASK_LABELS else task.partition('_')[0]
  return TASK_LABELS[family][1] if family in TASK_LABELS else ''


def metric_label(metric: str) -> str:
  """Return the name of a metric on the page."""
  return METRIC_LABELS.get(metric) or metric.replace('_', ' ')


def comparison_label(name: str) -> str:
  """Return 'Audio − Cascade' for 'audio - cascade'."""
  return ' − '.join(arm_label(part).label for part in name.split(' - '))


def is_lower_better(metric: str) -> bool:
  """Return whether smaller values of a metric are better."""
  return bool(_LOWER_IS_BETTER.search(metric))


def describe_metric(metric: str) -> str:
  """Return the name of a metric, and its direction where it is not the usual one."""
  note = ' (lower is better)' if is_lower_better(metric) else ''
  return metric_label(metric) + note


def sentence_case(name: str) -> str:
  """Return 'Cascade x' for 'cascade_x'."""
  words = name.replace('_', ' ')
  return words[:1].upper() + words[1:]


class Scale(NamedTuple):
  """How the values of a metric are written and drawn.

  percent: whether they are shares. largest, smallest: the ends of axes and strips.
  """

  percent: bool
  largest: float
  smallest: float = 0.0

  def place(self, value: float | int, length: float | int) -> float:
    """Return the position of a value on an axis of this length, within it."""
    share = (value - self.smallest) / (self.largest - self.smallest)
    return round(min(max(share, 0.0), 1.0) * length, 1)

  def format(self, value: float | None) -> str:
    """Return a value as text; '–' for None."""
    if value is None:
      return '–'
    if self.percent:
      return f'{value:.1%}'
    return _minus(f'{value:.1f}' if self.largest > 10 else f'{value:.3f}')

  def format_difference(self, value: float | None) -> str:
    """Return a signed value; shares are in percentage points."""
    if value is None:
      return '–'
    if self.percent:
      return _minus(f'{100 * value:+.1f}')
    return _minus(f'{value:+.1f}' if self.largest > 10 else f'{value:+.3f}')

  @property
  def unit(self) -> str:
    """The unit of differences, with a space before it; '' if there is none."""
    return ' points' if self.percent else ''


def scale_of(metric: str, values: list[float | int]) -> Scale:
  """Return the scale of a metric: shares end at 1, BLEU and chrF at 100."""
  largest = float(max(map(abs, values), default=0))
  smallest = float(min(values, default=0))
  if smallest < 0:
    return Scale(False, max(0.0, float(max(values))), smallest)
  if not _PLAIN.search(metric) and largest <= 1:
    return Scale(True, 1.0)
  return Scale(False, max(largest, 1e-9) if largest <= 10 else max(largest, 100.0))


def task_scale(task: Mapping[str, Any], metric: str) -> Scale:
  """Return the scale of a metric over all arms and groups of a task of report.json."""
  values = []
  for part in [task, *(task.get('groups') or {}).values()]:
    for metrics in (part.get('arms') or {}).values():
      value = (metrics.get(metric) or {}).get('value')
      if value is not None:
        values.append(value)
  return scale_of(metric, values)


def _minus(text: str) -> str:
  return text.replace('-', '−')
