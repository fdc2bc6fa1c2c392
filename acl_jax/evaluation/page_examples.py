# SPDX-License-Identifier: Apache-2.0
"""The cases that a page shows: a sample of each task and its failures, with audio."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from acl_jax.evaluation.case_records import CaseRecord, SpokenPart
from acl_jax.evaluation.heard_words import Word, split_words
from acl_jax.evaluation.labels import (
  arm_label,
  metric_label,
  order_arms,
  task_label,
)
from acl_jax.evaluation.media import mp3_data_url
from acl_jax.evaluation.task_groups import group_label
from acl_jax.evaluation.word_diff import diff_words
from data_pipeline import audio
from data_pipeline.audio import AudioError

SAMPLED_CASES = 6  # of each task
FAILED_CASES = 10  # of each task, beyond those sampled
MAX_AUDIO_BYTES = 24 << 20  # of MP3 on the page, shared evenly by the tasks
MAX_CHARACTERS = 4_000  # of a text
SEED = 0
NAMELESS = ('answers', 'reference')  # of what is expected: fields that need no name


class Heard(NamedTuple):
  """What stood for something said, and whether each word differs from what was said."""

  label: str
  words: Sequence[tuple[Word, bool]]


class SpokenView(NamedTuple):
  """Something said: its text, an audio URL or why there is none, what was heard."""

  text: str
  url: str | None
  missing: str
  degradation: str
  heard: Sequence[Heard]


class TurnView(NamedTuple):
  """A message; its parts are texts or `SpokenView`s."""

  speaker: str
  parts: Sequence[str | SpokenView]


class AnswerView(NamedTuple):
  """The answer of an arm; `right` is None where the task does not say."""

  arm: str
  label: str
  css_class: str
  text: str
  right: bool | None
  scores: str


class ExampleView(NamedTuple):
  """A case on the page; `badness` puts failures first, from 0 to 1."""

  id: str
  task: str
  task_label: str
  group: str
  badness: float
  right: Sequence[str]
  wrong: Sequence[str]
  turns: Sequence[TurnView]
  expected: str
  answers: Sequence[AnswerView]

  @property
  def lost(self) -> bool:
    """Whether the audio is answered wrongly and the text rightly."""
    return 'audio' in self.wrong and 'text' in self.right


def make_examples(
  tasks: Mapping[str, Any], cases: Sequence[CaseRecord], folder: Path
) -> list[ExampleView]:
  """Choose the cases to show, and embed their audio.

  Args:
    tasks: Of report.json.
    cases: Of cases.jsonl.
    folder: What the paths of audio are relative to.
  """
  by_task: dict[str, list[CaseRecord]] = {}
  for case in cases:
    by_task.setdefault(case.task, []).append(case)
  examples = []
  for name, task in tasks.items():
    chosen, shown = choose_cases(by_task.get(name, []), task), []
    budget = AudioBudget(folder, MAX_AUDIO_BYTES // len(tasks))
    for case in chosen:
      shown.append((by_task[name].index(case), _make_example(case, task, budget)))
    examples += [example for _, example in sorted(shown, key=lambda pair: pair[0])]
  return examples


def choose_cases(
  cases: Sequence[CaseRecord], task: Mapping[str, Any]
) -> list[CaseRecord]:
  """Return a random sample, then cases whose audio was answered wrongly.

  The draw depends on the ids alone, so two runs on the same cases show the same.
  """
  drawn = sorted(cases, key=_random_rank)
  sampled, others = drawn[:SAMPLED_CASES], drawn[SAMPLED_CASES:]
  failed = [case for case in others if badness(case, task) > 0.5]
  return sampled + failed[:FAILED_CASES]


def _random_rank(case: CaseRecord) -> bytes:
  return hashlib.sha256(f'{SEED}\n{case.task}\n{case.id}'.encode()).digest()


def badness(case: CaseRecord, task: Mapping[str, Any]) -> float:
  """Return how badly the audio was answered: 1 is wrong, 0 right or not known."""
  metrics = task.get('metrics') or []
  score = case.score('audio', metrics[0]) if metrics else None
  if score is None:
    return 0.0
  return float(np.clip(1 - (score if abs(score) <= 1 else score / 100), 0, 1))


def is_right(case: CaseRecord, task: Mapping[str, Any], arm: str) -> bool | None:
  """Return whether an arm was right; None if the task has no right and wrong."""
  score = case.score(arm, task['metrics'][0]) if task.get('binary') else None
  return None if score is None else score >= 0.5


class AudioBudget:
  """Reads audio as data URLs until a number of bytes is spent."""

  def __init__(self, folder: Path, num_bytes: int):
    self.folder, self.left = folder, num_bytes

  def embed(self, part: SpokenPart) -> tuple[str | None, str]:
    """Return the URL of a part's audio, or None and why there is none."""
    if part.audio is None:
      return None, 'no audio'
    if self.left <= 0:
      return None, f'not embedded, as the page would be too large: {part.audio}'
    try:
      beside = self.folder / part.audio
      url = mp3_data_url(audio.read(beside if beside.exists() else part.audio))
    except (AudioError, ValueError) as error:  # ValueError: a null byte in the path
      return None, f'{error}'
    self.left -= len(url)
    return url, ''


def clip(text: str) -> str:
  """Cut a text that is too long to show."""
  more = len(text) - MAX_CHARACTERS
  return text if more <= 0 else f'{text[:MAX_CHARACTERS]} … ({more} more characters)'


def _make_example(
  case: CaseRecord, task: Mapping[str, Any], budget: AudioBudget
) -> ExampleView:
  answers = list(make_answers(case, task))
  return ExampleView(
    id=clip(case.id),
    task=case.task,
    task_label=task_label(case.task),
    group=group_label(case.group) if case.group else '',
    badness=round(badness(case, task), 3),
    right=[answer.arm for answer in answers if answer.right is True],
    wrong=[answer.arm for answer in answers if answer.right is False],
    turns=[
      TurnView(turn.role, [_make_part(part, budget) for part in turn.content])
      for turn in case.turns
    ],
    expected=describe_expected(case.expected),
    answers=answers,
  )


def make_answers(case: CaseRecord, task: Mapping[str, Any]) -> Iterator[AnswerView]:
  """Yield the answers of a case in the order of the arms.

  The scores leave out the headline if the answer is right or wrong by it.
  """
  shown_as_mark = task['metrics'][:1] if task.get('binary') else []
  for arm in order_arms(case.answers):
    answer, label = case.answers[arm], arm_label(arm)
    scores = ', '.join(
      f'{metric_label(name)} {value:.4g}'
      for name, value in answer.scores.items()
      if name not in shown_as_mark
    )
    right = is_right(case, task, arm)
    yield AnswerView(
      arm, label.label, label.css_class, clip(answer.text), right, scores
    )


def _make_part(part: str | SpokenPart, budget: AudioBudget) -> str | SpokenView:
  if isinstance(part, str):
    return clip(part)
  url, missing = budget.embed(part)
  heard = []
  for arm in order_arms(part.heard):
    text = clip(part.heard[arm])
    words = split_words(text, part.tokens if arm == 'audio' else ())
    differ = [d for run, d in diff_words(part.text, text) for _ in run.split()]
    label = 'The model' if arm == 'audio' else arm_label(arm).label
    heard.append(Heard(label, list(zip(words, differ, strict=True))))
  degradation = group_label(part.degradation) if part.degradation else ''
  return SpokenView(clip(part.text), url, missing, degradation, heard)


def describe_expected(expected: Any) -> str:
  """Return what is expected as text: alternatives with 'or', other values as JSON."""
  if expected is None or expected == '':
    return ''
  if isinstance(expected, str):
    return clip(expected)
  if isinstance(expected, list) and all(isinstance(text, str) for text in expected):
    return clip(' or '.join(expected))
  if isinstance(expected, dict) and expected:
    parts = ((key, _describe_field(value)) for key, value in expected.items() if value)
    shown = [part if key in NAMELESS else f'{key}: {part}' for key, part in parts]
    return clip('; '.join(shown))
  return clip(json.dumps(expected, ensure_ascii=False))


def _describe_field(value: Any) -> str:
  if isinstance(value, dict):
    return json.dumps(value, ensure_ascii=False)
  return describe_expected(value)
