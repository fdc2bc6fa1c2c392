# SPDX-License-Identifier: Apache-2.0
"""The sets are complete, and what is wrong with a line is reported with its number."""

import copy

import pytest

from data_pipeline.evaluation_sets import texts
from data_pipeline.evaluation_sets.constraints import KINDS

MAX_BYTES = 300_000


@pytest.mark.parametrize('name', texts.SETS)
def test_a_set_is_complete(name):
  assert len(texts.read_set(name)) == texts.SETS[name]


def test_the_sets_are_small():
  sizes = {path.name: path.stat().st_size for path in texts.FOLDER.glob('*.jsonl')}
  assert sizes.keys() == {f'{name}.jsonl' for name in texts.SETS}
  assert sum(sizes.values()) <= MAX_BYTES, sizes


def test_a_question_is_asked_once():
  asked = {}
  for name in ('questions', 'two_facts', 'choices', 'instructions', 'contexts'):
    for entry in texts.read_set(name):
      text = entry['text'].split('? A, ')[0].lower()
      assert asked.setdefault(text, entry['id']) == entry['id'], (asked[text], entry)


def test_every_kind_of_constraint_occurs():
  used = [c['kind'] for e in texts.read_set('instructions') for c in e['constraints']]
  assert {kind for kind in KINDS if used.count(kind) >= 2} == set(KINDS)


def test_what_a_constraint_demands_is_said():
  for entry in texts.read_set('instructions'):
    for constraint in entry['constraints']:
      for key in ('word', 'phrase', 'marker', 'words', 'options'):
        values = constraint.get(key, [])
        for value in [values] if isinstance(values, str) else values:
          assert value.lower() in entry['text'].lower(), entry


def change(path, value):
  """Return a function that sets the value at a path of an entry."""

  def apply(entry):
    *folders, last = path
    for key in folders:
      entry = entry[key]
    entry[last] = value

  return apply


FAULTS = {
  'no answers': ('questions', change(['answers'], []), 'answers is'),
  'an empty answer': ('questions', change(['answers', 0], ''), r'answers\[0\] is'),
  'no text': ('questions', change(['text'], None), 'text is None'),
  'a break': ('questions', change(['text'], 'What\nis up?'), 'text is'),
  'an answer in the question': (
    'questions',
    change(['text'], 'Is Rome the capital of Italy?'),
    "already has the answer 'Rome'",
  ),
  'another id': ('two_facts', change(['id'], 'two_facts-7'), 'id is'),
  'no such letter': ('choices', change(['answer'], 'E'), "answer is 'E'"),
  'an option twice': ('choices', change(['options'], ['a', 'a', 'b']), 'occurs twice'),
  'options not said': ('choices', change(['text'], 'Which?'), 'followed by'),
  'one option': ('choices', change(['options'], ['a']), 'must have 3 or 4'),
  'no constraints': ('instructions', change(['constraints'], []), 'is empty'),
  'an unknown kind': (
    'instructions',
    change(['constraints', 0], {'kind': 'rhyme'}),
    "'rhyme' is unknown",
  ),
  'both bounds': (
    'instructions',
    change(['constraints', 0], {'kind': 'num_words', 'at_least': 5, 'at_most': 9}),
    'requires one of',
  ),
  'a parameter too many': (
    'instructions',
    change(['constraints', 0], {'kind': 'json', 'at_most': 9}),
    'has the parameters',
  ),
  'a word for a number': (
    'instructions',
    change(['constraints', 0], {'kind': 'bullets', 'exactly': 'two'}),
    "is 'two', not",
  ),
  'another pattern': ('conversations', change(['pattern'], 'aa'), "pattern is 'aa'"),
  'two users': ('conversations', change(['turns', 1, 'role'], 'user'), r'turns\[1\]'),
  'an answer that nobody gave': (
    'conversations',
    change(['answers'], ['Waldo']),
    'no earlier turn',
  ),
  'an entity that is not said': ('contexts', change(['entities'], ['yak']), "'yak'"),
  'a context that tells': (
    'contexts',
    change(['context', 'exact'], 'Flour is made from wheat.'),
    "context.exact already has the answer 'wheat'",
  ),
  'no coarse context': ('contexts', change(['context', 'coarse'], ''), 'coarse is'),
  'a short passage': ('passages', change(['text'], 'Too short.'), 'text has 2 words'),
  'no summary': ('passages', change(['reference'], ''), 'reference is'),
  'no German': ('translations', change(['de'], ''), 'de is'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_wrong_line_is_named(fault):
  name, apply, message = FAULTS[fault]
  entries = copy.deepcopy(texts.read_set(name))
  apply(entries[0])
  with pytest.raises(ValueError, match=rf'{name}\.jsonl line 1: .*{message}'):
    texts.check_set(name, entries)


def test_a_line_that_occurs_twice_is_named():
  entries = texts.read_set('questions')
  entries[6] = entries[2] | {'id': 'questions-007'}
  with pytest.raises(ValueError, match='line 7: has the text of line 3'):
    texts.check_set('questions', entries)


@pytest.mark.parametrize('name', ['choices', 'conversations'])
def test_a_set_out_of_balance_is_reported(name):
  with pytest.raises(ValueError, match=f'{name}.jsonl: of length'):
    texts.check_set(name, texts.read_set(name)[:3])
