# SPDX-License-Identifier: Apache-2.0
"""Spoken question answering: open questions, and questions with options.

An open question is answered rightly if one of `answers` occurs in the answer, both
normalised as SQuAD's are: the usual loose count of spoken benchmarks, of whole words. A
question with options is answered rightly if the answer names the letter of the right
one.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acl_jax.evaluation.scoring.squad import contains, equals, normalise
from acl_jax.evaluation.tasks.fields import (
  nonempty_string,
  nonempty_strings,
  read_speech,
)
from acl_jax.evaluation.tasks.task import Answer, Case, TaskTurn
from data_pipeline.corpora.manifest import LineError, shorten

MAX_NEW_TOKENS = 64
MAX_OPTIONS = 26  # letters

# How answers name a letter, the surest first. A letter alone may be the article.
_LETTERS = (
  re.compile(r'^\W*([A-Z])\W*$'),
  re.compile(r'(?i:answer|option|choice)\W+(?:(?i:is|would be)\W+)?([A-Z])\b(?!\w)'),
  re.compile(r'^\W*([A-Z])[).:,;]'),
  re.compile(r'\(([A-Z])\)'),
  re.compile(r'\b([A-Z])[):]'),
)


class SpokenQA:
  """Questions that are spoken, with `answers`, or with `options` and `answer`."""

  name = 'spoken_qa'
  metrics = ('correct', 'contains', 'exact_match', 'letter', 'likelihood')
  binary = True

  def applies(self, entry: Mapping[str, Any]) -> bool:
    """Return whether a line has an audio file, and answers or options."""
    other = 'context' in entry or 'turns' in entry
    return (
      'audio_filepath' in entry
      and not other
      and not entry.keys().isdisjoint(('answers', 'options'))
    )

  def parse(self, entry: Mapping[str, Any], folder: Path) -> list[Case]:
    """Return the question of a line."""
    speech = read_speech(entry, folder)
    options: tuple[str, ...] = ()
    if 'options' in entry:
      options = _read_options(entry)
      expected = {'letter': _read_letter(entry, options), 'options': options}
    else:
      expected = {'answers': nonempty_strings(entry, 'answers')}
    return [
      Case(
        id=speech.utterance.id,
        turns=(TaskTurn('user', (speech,)),),
        max_new_tokens=MAX_NEW_TOKENS,
        continuations=options,
        group='options' if options else 'answers',
        expected=expected,
      )
    ]

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    """Return the metrics of the kind of question.

    likelihood: whether the right option is the likeliest, by nats per token.
    """
    if case.group == 'answers':
      return score_answer(answer.text, case.expected['answers'])
    letter, options = case.expected['letter'], case.expected['options']
    right = float(find_letter(answer.text, options) == letter)
    means = [
      total / count
      for total, count in zip(answer.log_likelihoods, answer.num_tokens, strict=True)
    ]
    likeliest = means.index(max(means)) == _index(letter)
    return {'correct': right, 'letter': right, 'likelihood': float(likeliest)}

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return nothing: every metric is a mean."""
    return {}


def score_answer(text: str, answers: Sequence[str]) -> dict[str, float]:
  """Return whether an answer holds, and whether it is, one of the right answers."""
  contained = float(contains(text, answers))
  exact = float(equals(text, answers))
  return {'correct': contained, 'contains': contained, 'exact_match': exact}


def find_letter(text: str, options: Sequence[str]) -> str:
  """Return the letter that an answer names, itself or by its option; '' if none."""
  known = string.ascii_uppercase[: len(options)]
  for pattern in _LETTERS:
    if (found := pattern.search(text)) and found[1] in known:
      return found[1]
  said = normalise(text)
  named = [
    letter
    for letter, option in zip(known, options, strict=True)
    if f' {normalise(option)} ' in f' {said} '
  ]
  return named[0] if len(named) == 1 else ''


def _read_options(entry: Mapping[str, Any]) -> tuple[str, ...]:
  options = nonempty_strings(entry, 'options')
  if not 2 <= len(options) <= MAX_OPTIONS:
    raise LineError('options', f'has {len(options)}; it must have 2 to {MAX_OPTIONS}')
  if len(set(options)) < len(options):
    raise LineError('options', 'has the same option twice')
  return options


def _read_letter(entry: Mapping[str, Any], options: Sequence[str]) -> str:
  letter = nonempty_string(entry, 'answer').upper()
  known = string.ascii_uppercase[: len(options)]
  if len(letter) != 1 or letter not in known:
    raise LineError(
      'answer',
      f'is {shorten(entry["answer"])}; it must be the letter of an option, A to'
      f' {known[-1]}',
    )
  return letter


def _index(letter: str) -> int:
  return string.ascii_uppercase.index(letter)
