# SPDX-License-Identifier: Apache-2.0
"""VoiceBench (Chen et al. 2024): a task per subset, scored as its own code scores.

A line of a manifest has `task: "voicebench"` and `folder`, a local copy of VoiceBench;
`subset` limits it to one. Five subsets are scored by rules, four by a judge, without
which they are left out.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

from acl_jax.evaluation.judge import Judge, JudgeError
from acl_jax.evaluation.scoring import constraints
from acl_jax.evaluation.tasks.refusals import is_refusal
from acl_jax.evaluation.tasks.task import Answer, Case, Speech, TaskTurn
from acl_jax.evaluation.voicebench import folder as copies
from acl_jax.evaluation.voicebench.letters import find_letter, strip_markers
from acl_jax.evaluation.voicebench.reasoning import find_verdict
from acl_jax.evaluation.voicebench.subsets import (
  JUDGED,
  SUBSETS,
  Subset,
  parse_expected,
)
from data_pipeline.corpora.manifest import LineError, required_string
from data_pipeline.corpora.utterance import BadUtterance

T = TypeVar('T')

MAX_NEW_TOKENS = 512

METRICS: dict[str, tuple[str, ...]] = {
  'rating': ('rating', 'unscored'),
  'agreement': ('correct', 'unscored'),
  'letter': ('correct', 'unparsed'),
  'verdict': ('correct', 'unparsed'),
  'constraints': (
    'final',
    'prompt_strict',
    'prompt_loose',
    'instruction_strict',
    'instruction_loose',
  ),
  'refusal': ('refused',),
}


@dataclasses.dataclass(frozen=True)
class VoiceBench:
  """A subset; the group of a case is its split: a region, a domain or `test`.

  correct, refused: 0 or 1. rating: from 1 to 5. unparsed: no rule found an answer; one
  is drawn by the id of the case, where VoiceBench draws one at random. unscored: the
  judge gave no usable reply. final: the mean of ifeval's four accuracies.
  """

  subset: Subset
  judge: Judge | None = None

  @property
  def name(self) -> str:
    return self.subset.task_name

  @property
  def metrics(self) -> tuple[str, ...]:
    return METRICS[self.subset.scored_by]

  @property
  def binary(self) -> bool:
    return self.subset.scored_by not in ('rating', 'constraints')

  def applies(self, entry: Mapping[str, Any]) -> bool:
    """Return whether a line names VoiceBench, and this subset or none."""
    named = entry.get('task') == 'voicebench'
    return named and entry.get('subset') in (None, self.subset.name)

  def parse(self, entry: Mapping[str, Any], folder: Path) -> list[Case]:
    """Return the cases of the subset; none if the copy lacks it, or without a judge.

    Rows that cannot be used are left out and logged.
    """
    path = folder / required_string(dict(entry), 'folder')
    try:
      present = self.subset in copies.find_subsets(path)
      if not present or (self.subset.scored_by in JUDGED and self.judge is None):
        return []
      cases, bad = read_cases(path, self.subset)
    except (ValueError, OSError) as error:
      raise LineError('folder', f'{error} (task {self.name})') from None
    for row in bad:
      logging.warning('%s; it is left out', row.reason)
    return cases

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    match self.subset.scored_by:
      case 'rating' | 'agreement':
        return self._ask_judge(case, answer.text)
      case 'letter':
        letter = find_letter(answer.text)
        right = (letter or _draw('ABCD', case.id)) == case.expected
        return {'correct': float(right), 'unparsed': float(letter is None)}
      case 'verdict':
        verdict = find_verdict(answer.text, case.expected['id'])
        chosen = _draw((0, 1), case.id) if verdict is None else verdict
        right = chosen == case.expected['verdict']
        return {'correct': float(right), 'unparsed': float(verdict is None)}
      case 'constraints':
        return _score_prompt(case, answer)
    return {'refused': float(is_refusal(answer.text))}

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return ifeval's accuracies over all instructions, and the mean of all four."""
    if self.subset.scored_by != 'constraints' or not cases:
      return {}
    pairs = list(zip(cases, answers, strict=True))
    verdicts = [_check_instructions(*pair) for pair in pairs]
    prompts = [_score_prompt(*pair) for pair in pairs]
    accuracies = {}
    for name in ('strict', 'loose'):
      flat = [followed for verdict in verdicts for followed in verdict[name]]
      accuracies[f'instruction_{name}'] = sum(flat) / len(flat)
      right = [prompt[f'prompt_{name}'] for prompt in prompts]
      accuracies[f'prompt_{name}'] = sum(right) / len(right)
    return {'final': sum(accuracies.values()) / 4, **accuracies}

  def _ask_judge(self, case: Case, text: str) -> dict[str, float]:
    if self.judge is None:
      raise ValueError(f'{self.name} needs --judge_url and --judge_model')
    headline = self.metrics[0]
    try:
      if self.subset.scored_by == 'rating':
        score = self.judge.grade(case.expected['prompt'], text)
      else:
        score = float(self.judge.agrees(**case.expected, response=text))
    except JudgeError as error:
      logging.warning('%s is not scored: %s', case.id, error)
      return {'unscored': 1.0}
    return {headline: score, 'unscored': 0.0}


def make_tasks(judge: Judge | None) -> dict[str, VoiceBench]:
  """Return the tasks that can be scored: without a judge, five of the nine."""
  tasks = (VoiceBench(subset, judge) for subset in SUBSETS.values())
  return {
    task.name: task
    for task in tasks
    if judge is not None or task.subset.scored_by not in JUDGED
  }


def read_cases(path: Path, subset: Subset) -> tuple[list[Case], list[BadUtterance]]:
  """Return the cases of a subset, and the rows that cannot be used."""
  cases, bad = [], []
  for row in copies.read_subset(path, subset):
    if isinstance(row, BadUtterance):
      bad.append(row)
      continue
    id = row.utterance.id
    try:
      expected = parse_expected(row.values, subset)
    except LineError as error:
      reason = f'{row.utterance.audio_filepath} {id}: {error}'
      bad.append(BadUtterance(id, error.field, reason))
      continue
    turn = TaskTurn('user', (Speech(row.utterance),))
    cases.append(Case(id, (turn,), MAX_NEW_TOKENS, group=row.split, expected=expected))
  return cases, bad


def _draw(choices: Sequence[T], id: str) -> T:
  """Return a choice as good as random, the same in every run."""
  return choices[hashlib.sha256(id.encode()).digest()[0] % len(choices)]


def _check_instructions(case: Case, answer: Answer) -> dict[str, list[bool]]:
  """Return for each instruction whether the answer follows it, strictly and loosely."""
  text = strip_markers(answer.text).removesuffix('<|user|>').strip()
  return {
    'strict': [constraints.follows(text, constraint) for constraint in case.expected],
    'loose': [
      constraints.follows_loosely(text, constraint) for constraint in case.expected
    ],
  }


def _score_prompt(case: Case, answer: Answer) -> dict[str, float]:
  verdicts = _check_instructions(case, answer)
  return {f'prompt_{name}': float(all(all_)) for name, all_ in verdicts.items()}
