# SPDX-License-Identifier: Apache-2.0
"""Whether a previous turn helps to understand what is spoken, clean and in noise.

A line has `audio_filepath` and `text` (said, with a word that is ambiguous or easily
misheard), `context` (`coarse` and `exact`, each what the user wrote a turn before),
`entities` (what must be heard) and `answers`. Every arm reads the same context.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from acl_jax.evaluation.scoring.squad import contains, normalise
from acl_jax.evaluation.summary import english_normaliser
from acl_jax.evaluation.tasks.instructed import naming
from acl_jax.evaluation.tasks.task import Answer, Case, Speech, TaskTurn
from data_pipeline.corpora import manifest
from data_pipeline.corpora.manifest import LineError, shorten

CONTEXTS = ('none', 'coarse', 'exact')
NOISES = {  # group: degradation
  'clean': '',
  'babble_10db': 'babble_10db',
  'babble_5db': 'babble_5db',
  'babble_0db': 'babble_0db',
}
ACKNOWLEDGEMENT = 'I see.'  # the assistant's turn after the context
MAX_NEW_TOKENS = 48
MAX_STRINGS = 32  # answers, or entities, of a line
MAX_LENGTH = 2_000  # characters of a context, answer or entity

_english_normaliser = functools.cache(english_normaliser)


class Context:
  """No, coarse and exact context × clean and noise; group `<context>/<noise>`.

  contains: whether an answer occurs in the text. log_likelihood: of the likeliest
  answer, in nats. entity_error_rate: share of the entities that do not occur in what
  was heard; only in the arms where text stands for what was said.
  """

  name = 'context'
  metrics = ('contains', 'log_likelihood', 'entity_error_rate')
  binary = True

  def applies(self, entry: Mapping[str, Any]) -> bool:
    """Return whether a line names this task, or no task and has a context."""
    if (name := entry.get('task')) is not None:
      return name == self.name
    return 'context' in entry and 'turns' not in entry

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return 12 cases of a line; LineError names a field and the task."""
    with naming(self.name):
      utterance = manifest.from_entry(dict(entry), folder)
      expected = {key: _strings(entry, key) for key in ('answers', 'entities')}
      previous = {'none': ()} | _contexts(entry)
    return [
      Case(
        id=f'{utterance.id}/{context}/{noise}',
        turns=(
          *previous[context],
          TaskTurn('user', (Speech(utterance, degradation),)),
        ),
        max_new_tokens=MAX_NEW_TOKENS,
        continuations=expected['answers'],
        group=f'{context}/{noise}',
        expected=expected,
        line=utterance.id,
      )
      for context in CONTEXTS
      for noise, degradation in NOISES.items()
    ]

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    right = contains(answer.text, case.expected['answers'])
    scores = {'contains': float(right)}
    if answer.log_likelihoods:
      scores['log_likelihood'] = max(answer.log_likelihoods)
    heard = [text for text in answer.heard if text is not None]
    if heard:
      scores['entity_error_rate'] = missed_share(
        case.expected['entities'], ' '.join(heard)
      )
    return scores

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    return {}


def missed_share(entities: Sequence[str], heard: str) -> float:
  """Return the share of entities that do not occur as whole words in what was heard.

  Both are normalised as for word error rates.
  """
  padded = f' {_normalise_words(heard)} '
  missed = sum(f' {_normalise_words(entity)} ' not in padded for entity in entities)
  return missed / len(entities)


def _normalise_words(text: str) -> str:
  return ' '.join(_english_normaliser()(text).split())


def _contexts(entry: Mapping[str, Any]) -> dict[str, tuple[TaskTurn, ...]]:
  """Return the turns before the audio, of each kind of context."""
  contexts = entry.get('context')
  if not isinstance(contexts, dict):
    raise LineError('context', f'is {shorten(contexts)}, not an object')
  return {
    kind: (
      TaskTurn('user', (_text(contexts.get(kind), f'context.{kind}'),)),
      TaskTurn('assistant', (ACKNOWLEDGEMENT,)),
    )
    for kind in CONTEXTS[1:]
  }


def _strings(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
  values = entry.get(key)
  if not isinstance(values, list) or not 1 <= len(values) <= MAX_STRINGS:
    raise LineError(key, f'is {shorten(values)}, not a list of 1 to {MAX_STRINGS}')
  return tuple(_text(value, key) for value in values)


def _text(value: Any, field: str) -> str:
  if not isinstance(value, str) or not normalise(value):
    raise LineError(field, f'has {shorten(value)}, not a string with words')
  if len(value) > MAX_LENGTH:
    raise LineError(field, f'has {len(value)} characters; the limit is {MAX_LENGTH}')
  return value
