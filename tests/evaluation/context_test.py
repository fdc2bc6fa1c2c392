# SPDX-License-Identifier: Apache-2.0
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.degradations import DEGRADATIONS
from acl_jax.evaluation.scoring.squad import contains
from acl_jax.evaluation.tasks.context import Context, missed_share
from acl_jax.evaluation.tasks.robustness import CLEAN, Robustness
from acl_jax.evaluation.tasks.task import Answer, Speech
from data_pipeline.corpora.manifest import LineError

LINE = {
  'audio_filepath': 'a.wav',
  'text': 'How long is the Seine?',
  'context': {'coarse': 'Let us talk of rivers.', 'exact': 'The Seine is in France.'},
  'entities': ['Seine', 'Le Havre'],
  'answers': ['777 km', '777 kilometres'],
}


def test_a_line_gives_every_context_in_every_noise(tmp_path):
  cases = Context().parse(LINE, tmp_path)
  assert len({case.id for case in cases}) == len(cases) == 12
  assert len({case.group for case in cases}) == 12
  for case in cases:
    context, noise = case.group.split('/')
    (speech,) = case.speech
    assert speech.utterance.text == LINE['text']
    assert speech.degradation == ('' if noise == 'clean' else noise)
    assert speech.degradation in ('', *DEGRADATIONS)
    assert case.turns[-1].role == 'user'
    previous = [turn.content for turn in case.turns[:-1]]
    expected = [] if context == 'none' else [(LINE['context'][context],), ('I see.',)]
    assert previous == expected
    assert case.continuations == tuple(LINE['answers'])


def score(text, heard):
  case = Context().parse(LINE, Path('/x'))[0]
  return Context().score(case, Answer(text, (-7.0, -3.0), (2, 3), heard))


def test_scores():
  assert score('It is 777 km long.', ('how long is the seine',)) == {
    'contains': 1,
    'log_likelihood': -3,
    'entity_error_rate': 0.5,
  }
  assert score('1777 km', (None,)) == {'contains': 0, 'log_likelihood': -3}


def test_answers_and_entities_are_whole_words():
  assert contains('The Rhine, of course!', ['rhine'])
  assert contains('It is the: Red Sea.', ['a red sea'])
  assert not contains('It is a shrine.', ['rhine'])
  assert missed_share(['Dr. Mayer', 'Bonn'], 'doctor mayer is in bonnie') == 0.5


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('answers', [], r'answers is \[\], not a list of 1 to 32 \(task context\)'),
    ('answers', [' .'], r"answers has ' \.', not a string with words"),
    ('entities', None, r'entities is None, not a list'),
    ('entities', ['x' * 2_001], r'has 2001 characters; the limit is 2000'),
    ('context', 'rivers', r"context is 'rivers', not an object"),
    ('context', {'coarse': 'x'}, r'context\.exact has None, not a string'),
    ('audio_filepath', None, r'audio_filepath is missing \(task context\)'),
  ],
)
def test_what_is_wrong_is_named_with_the_task(tmp_path, field, value, message):
  with pytest.raises(LineError, match=message):
    Context().parse(LINE | {field: value}, tmp_path)


JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
  ),
  max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(LINE, JSON)))
def test_no_line_raises_anything_else(changes):
  try:
    cases = Context().parse(LINE | changes, Path('/x'))
  except LineError:
    return
  assert len(cases) == 12


def test_robustness_is_the_task_under_every_degradation(tmp_path):
  task = Robustness(Context())
  assert task.name == 'robustness_context'
  assert task.applies(LINE) and not task.applies({})
  inner, cases = Context().parse(LINE, tmp_path), task.parse(LINE, tmp_path)
  assert len({case.id for case in cases}) == len(cases) == 12 * 19
  assert {case.group for case in cases} == {CLEAN, *DEGRADATIONS}
  for case in cases:
    degradation = '' if case.group == CLEAN else case.group
    assert [part.degradation for part in case.speech] == [degradation]
  written = [p for c in cases for t in c.turns for p in t.content if isinstance(p, str)]
  assert set(written) == {*LINE['context'].values(), 'I see.'}
  answer = Answer('777 km', (-1.0, -2.0), (1, 2), ('Seine',))
  assert task.score(cases[1], answer) == Context().score(inner[0], answer)
  assert not any(isinstance(p, Speech) for p in written)


class ByGroup(Context):
  """Scores by the group and the id, and expects what the written text gave."""

  def score(self, case, answer):
    return {'contains': float(case.id + case.group + answer.text == case.expected)}

  def pool(self, cases, answers):
    return {'groups': float(len({case.group for case in cases}))}

  def expected_from(self, case, text_answer):
    return dataclasses.replace(case, expected=text_answer.text)


def test_robustness_scores_a_case_as_its_task_made_it(tmp_path):
  task, original = Robustness(ByGroup()), Context().parse(LINE, tmp_path)[0]
  for case in task.parse(LINE, tmp_path)[:19]:
    expected = Answer(f'{original.id}{original.group}yes')
    completed = task.expected_from(case, expected)
    assert task.score(completed, Answer('yes')) == {'contains': 1}
    assert task.score(completed, Answer('no')) == {'contains': 0}
  assert task.pool([completed, case], []) == {'groups': 1}
  assert Robustness(Context()).expected_from(case, expected) is case
