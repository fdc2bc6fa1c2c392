# SPDX-License-Identifier: Apache-2.0
import pytest

from acl_jax.evaluation.scoring.squad import normalise
from acl_jax.evaluation.tasks.spoken_qa import (
  SpokenQA,
  find_letter,
  score_answer,
)
from acl_jax.evaluation.tasks.task import Answer
from data_pipeline.corpora.manifest import LineError

LINE = {'audio_filepath': 'q.wav', 'text': 'Who wrote it?'}
OPTIONS = LINE | {'options': ['Paris', 'New York', 'Rome'], 'answer': 'b'}
TASK = SpokenQA()


def test_normalise_as_squad():
  assert normalise(' The cat, an  "Owl" and a U.S. dog!') == 'cat owl and us dog'
  assert normalise('Theatre') == 'theatre'


@pytest.mark.parametrize(
  'text, contains, exact',
  [
    ('The Eiffel Tower.', 1, 1),
    ('It is the eiffel  tower, of course.', 1, 1),
    ('It is in Paris.', 0, 0),
    ('', 0, 0),
  ],
)
def test_answers(text, contains, exact):
  scores = score_answer(text, ['Big Ben', 'Eiffel tower'])
  assert scores['contains'] == scores['correct'] == contains
  assert scores['exact_match'] == (exact if len(text) < 20 else 0)


@pytest.mark.parametrize(
  'text, letter',
  [
    ('B', 'B'),
    ('(B)', 'B'),
    ('B) New York', 'B'),
    ('B: it never sleeps, unlike A.', 'B'),
    ('The answer is C.', 'C'),
    ('The correct option would be (A).', 'A'),
    ('A city that never sleeps is New York.', 'B'),
    ('A dog', ''),
    ('Paris or Rome', ''),
    ('The answer is D.', ''),
    ('', ''),
  ],
)
def test_find_letter(text, letter):
  assert find_letter(text, ('Paris', 'New York', 'Rome')) == letter


def test_an_open_question(tmp_path):
  [case] = TASK.parse(LINE | {'answers': ['Woolf']}, tmp_path)
  assert TASK.applies(LINE | {'answers': ['Woolf']})
  assert (case.id, case.group, case.continuations) == ('q', 'answers', ())
  assert [speech.utterance.text for speech in case.speech] == ['Who wrote it?']
  scores = TASK.score(case, Answer('Virginia Woolf'))
  assert scores == {'correct': 1, 'contains': 1, 'exact_match': 0}


def test_a_question_with_options(tmp_path):
  [case] = TASK.parse(OPTIONS, tmp_path)
  assert case.group == 'options' and case.continuations == tuple(OPTIONS['options'])
  # Of the sums the first is the likeliest, per token the second.
  answer = Answer('The answer is B', (-3.0, -4.0, -9.0), (1, 2, 1))
  assert TASK.score(case, answer) == {'correct': 1, 'letter': 1, 'likelihood': 1}
  answer = Answer('A.', (-3.0, -7.0, -9.0), (1, 2, 1))
  assert TASK.score(case, answer) == {'correct': 0, 'letter': 0, 'likelihood': 0}


@pytest.mark.parametrize(
  'change, error',
  [
    ({'answers': []}, r'answers has 0 strings'),
    ({'answers': ['']}, r'answers\[0\] is empty'),
    ({'answers': 'x'}, r"answers is 'x', not a list"),
    ({'answers': ['x'], 'text': ' '}, 'text is empty'),
    ({'answers': ['x'], 'audio_filepath': '../q.wav'}, 'audio_filepath .* outside'),
    ({'options': ['x']}, r'options has 1; it must have 2 to 26'),
    ({'options': ['x', 'x'], 'answer': 'A'}, r'same option twice'),
    ({'options': ['x', 'y']}, r'answer is missing'),
    ({'options': ['x', 'y'], 'answer': 'C'}, r"answer is 'C'.* A to B"),
  ],
)
def test_bad_fields_are_named(change, error, tmp_path):
  with pytest.raises(LineError, match=error):
    TASK.parse(LINE | change, tmp_path)
