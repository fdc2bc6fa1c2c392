# SPDX-License-Identifier: Apache-2.0
import collections
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.evaluation.scoring import english
from acl_jax.evaluation.scoring.constraints import (
  KINDS,
  follows,
  follows_loosely,
  read_constraint,
)
from acl_jax.evaluation.scoring.ifeval import ROWS, from_ifeval
from data_pipeline.corpora.manifest import LineError

# Verdicts of IFEval's own code (as VoiceBench carries it) with our sentence splitter.
FIXTURES = [
  json.loads(line)
  for line in (pathlib.Path(__file__).parent / 'ifeval.jsonl').read_text().splitlines()
]
EXAMPLES = {
  'num_words': {'at_most': 3},
  'num_sentences': {'at_least': 2},
  'num_paragraphs': {'exactly': 2},
  'bullets': {'exactly': 3},
  'keywords': {'words': ['cat', 'c++ (']},
  'forbidden_words': {'words': ['[a', 'dog']},
  'keyword_frequency': {'word': 'a.c', 'at_least': 1},
  'letter_frequency': {'letter': 'Q', 'at_most': 4},
  'placeholders': {'at_least': 1},
  'starts_with': {'phrase': 'Did you'},
  'end_phrase': {'phrase': 'Bye.'},
  'postscript': {'marker': 'P.S.'},
  'choose': {'options': ['yes', 'no']},
  'language': {'lang': 'it'},
  'capital_words': {'at_least': 2},
  'highlights': {'at_least': 1},
  'sections': {'marker': 'Part', 'at_least': 2},
  'first_word': {'word': 'So', 'paragraph': 1, 'exactly': 2},
  'repeat': {'phrase': 'Name a river.'},
  'contains_option': {'options': ['yes.']},
}


def constraint(kind, **values):
  return read_constraint({'kind': kind, **values})


def test_every_constraint_of_ifeval_is_among_the_fixtures():
  assert {fixture['id'] for fixture in FIXTURES} == ROWS.keys()
  verdicts = collections.defaultdict(set)
  for fixture in FIXTURES:
    verdicts[fixture['id']].add(fixture['strict'])
  assert all(seen == {True, False} for seen in verdicts.values()), verdicts


@pytest.mark.parametrize('id', ROWS)
def test_verdicts_are_ifevals(id):
  for fixture in FIXTURES:
    if fixture['id'] == id:
      read, answer = from_ifeval(id, fixture['kwargs']), fixture['answer']
      verdicts = follows(answer, read), follows_loosely(answer, read)
      assert verdicts == (fixture['strict'], fixture['loose']), fixture


@pytest.mark.parametrize(
  ('kind', 'values', 'right', 'wrong'),
  [
    ('num_words', {'at_most': 3}, 'one two three', 'one two three four'),
    ('num_sentences', {'at_most': 1}, 'Dr. Smith came.', 'Come. Go.'),
    ('starts_with', {'phrase': 'Did you know'}, '"did you know that', 'Well, did you'),
    ('choose', {'options': ['yes', 'no']}, 'No!', 'I know.'),
    ('choose', {'options': ['yes', 'no']}, 'Yes, yes.', 'Yes and no.'),
    ('keyword_frequency', {'word': 'a.c', 'at_least': 1}, 'A.C', 'abc'),
    ('language', {'lang': 'es'}, 'Me llamo Ana y vivo en España.', 'My name is Ana.'),
  ],
)
def test_constraints_of_our_own(kind, values, right, wrong):
  read = constraint(kind, **values)
  assert follows(right, read)
  assert not follows_loosely(wrong, read)


def test_the_loose_check_leaves_out_what_is_around_the_answer():
  read = constraint('json')
  for answer in ('Sure:\n[1]', '[1]\nDone.', 'Sure:\n[1]\nDone.', '**[1]**'):
    assert not follows(answer, read)
    assert follows_loosely(answer, read)


def read_example(kind):
  return constraint(kind, **EXAMPLES.get(kind, {}))


@settings(max_examples=15)
@given(st.text(max_size=60))
def test_any_text_has_a_verdict_and_the_loose_one_is_no_stricter(text):
  for kind in KINDS:
    if kind != 'language':  # slow
      read = read_example(kind)
      strict = follows(text, read)
      assert isinstance(strict, bool)
      assert strict <= follows_loosely(text, read)


@given(st.text(' \n\t'))
def test_a_blank_answer_follows_nothing(text):
  assert not any(follows_loosely(text, read_example(kind)) for kind in KINDS)


def test_what_is_read_is_read_again_alike():
  for kind in KINDS:
    read = read_example(kind)
    assert read_constraint(json.loads(json.dumps(read))) == read
    assert read_constraint({**read, 'unknown': 1}) == read


@pytest.mark.parametrize(
  ('entry', 'field', 'problem'),
  [
    (['num_words'], 'constraints', 'not an object'),
    ({}, 'kind', 'is None'),
    ({'kind': 'rhyme'}, 'kind', "'rhyme', not a constraint"),
    ({'kind': 'num_words'}, 'num_words', 'has 0 of at_least and at_most'),
    ({'kind': 'num_words', 'at_least': 1, 'at_most': 2}, 'num_words', 'has 2'),
    ({'kind': 'num_words', 'at_least': True}, 'at_least', 'True'),
    ({'kind': 'num_words', 'at_most': -1}, 'at_most', 'from 0 to 10,000'),
    ({'kind': 'keywords'}, 'words', 'is missing'),
    ({'kind': 'keywords', 'words': []}, 'words', 'a list of 1 to 100'),
    ({'kind': 'keywords', 'words': ['a', ' ']}, 'words', 'has 0 characters'),
    ({'kind': 'keywords', 'words': ['a', 3]}, 'words', 'not a string'),
    ({'kind': 'keywords', 'words': [None]}, 'words', 'contains null'),
    ({'kind': 'letter_frequency', 'letter': 'ab', 'at_least': 1}, 'letter', 'letter'),
    ({'kind': 'language', 'lang': 'xx'}, 'lang', 'langdetect does not know'),
    ({'kind': 'end_phrase', 'phrase': 'x' * 2_001}, 'phrase', '2,001 characters'),
    ({'kind': 'first_word', 'word': 'a', 'exactly': 2}, 'paragraph', 'is missing'),
  ],
)
def test_bad_constraints_are_named(entry, field, problem):
  with pytest.raises(LineError, match=problem) as caught:
    read_constraint(entry)
  assert caught.value.field == field


@pytest.mark.parametrize(
  ('id', 'kwargs', 'field'),
  [
    ('keywords:rhyme', {}, 'instruction_id_list'),
    ('keywords:existence', {'keywords': None}, 'keywords'),
    ('length_constraints:number_words', {'relation': 'at least'}, 'num_words'),
    ('length_constraints:number_words', {'num_words': 3, 'relation': '>'}, 'relation'),
  ],
)
def test_bad_instructions_of_ifeval_are_named(id, kwargs, field):
  with pytest.raises(LineError) as caught:
    from_ifeval(id, kwargs)
  assert caught.value.field == field


def test_sentences_end_neither_at_titles_nor_at_initials():
  text = 'Dr. J. Smith lives in the U.S. in 2.5 rooms. "Really?" Yes... e.g. here! No.'
  assert english.split_sentences(text)[0].endswith('2.5 rooms.')
  assert english.count_sentences('Mr. A met Mrs. B at 5 p.m. on Oct. 3.') == 1
  assert english.count_sentences('') == 0


def test_the_language_does_not_change_from_run_to_run():
  text = 'ok la casa'
  assert len({english.has_language(text, 'es') for _ in range(4)}) == 1
