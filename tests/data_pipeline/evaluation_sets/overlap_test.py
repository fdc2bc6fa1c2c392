# SPDX-License-Identifier: Apache-2.0
"""No sentence of the sets is in the training recipe, or made by its templates."""

import json
import re
from pathlib import Path

import pytest

import demo
from data_pipeline.corpus_tools import entities, questions
from data_pipeline.corpus_tools.requests import make_requests
from data_pipeline.corpus_tools.sentences import read_glosses, usage_examples
from data_pipeline.corpus_tools.templates import CONSTRAINTS, TEMPLATES
from data_pipeline.evaluation_sets import texts

ROOT = Path(__file__).parents[3]
WORDNET = Path('/usr/share/wordnet')
MIN_WORDS = 3  # of a sentence within a text; "Thank you." may occur anywhere
_NUMBER = r'(?:\S+ ){0,3}\S*\d\S*(?: \S+){0,2}'
_OPENINGS = '(?:hey |hi |okay |quick question |so |hello |um )?'
_ENDINGS = '(?: thanks| please be quick| thank you| just curious)?'


def simplify(text):
  """Lower case, words of letters and digits alone."""
  words = (re.sub(r'[^\w]', '', word) for word in text.lower().split())
  return ' '.join(word for word in words if word)


def sentences(text):
  """The text, and its sentences."""
  parts = re.split(r'(?<=[.?!:]) ', text)
  long = [part for part in parts if len(part.split()) >= MIN_WORDS]
  return {simplify(part) for part in [text, *long]}


def texts_of(name, entry):
  if name == 'translations':
    return [entry['en']]
  if name == 'conversations':
    contents = [turn['content'] for turn in entry['turns'] if turn['role'] == 'user']
    return [c if isinstance(c, str) else c[0]['text'] for c in contents]
  return [entry['text'], *entry.get('context', {}).values()]


@pytest.fixture(scope='module')
def evaluated():
  """Sentence: the line that it is from."""
  found = {}
  for name in texts.SETS:
    for entry in texts.read_set(name):
      for text in texts_of(name, entry):
        found |= dict.fromkeys(sentences(text), entry['id'])
  return found


def check_disjoint(evaluated, training):
  trained = set().union(*map(sentences, training))
  faults = {id: text for text, id in evaluated.items() if text in trained}
  assert not faults, f'{len(faults)} sentences are trained on: {faults}'


def test_no_sentence_is_in_the_recordings(evaluated):
  lines = (ROOT / 'data_pipeline/recordings/manifest.jsonl').read_text().splitlines()
  check_disjoint(evaluated, [json.loads(line)['text'] for line in lines])


def test_no_sentence_is_in_the_demo(evaluated):
  check_disjoint(evaluated, demo.TRAINING_LINES)


def test_no_sentence_is_among_the_requests(evaluated):
  check_disjoint(evaluated, make_requests(2_000, 'train', 0))


@pytest.mark.skipif(not WORDNET.is_dir(), reason='WordNet is not installed')
def test_no_sentence_is_in_wordnet(evaluated):
  check_disjoint(evaluated, usage_examples(read_glosses(WORDNET)))


def alternatives(items):
  return '(?:' + '|'.join(re.escape(simplify(item)) for item in items) + ')'


def request_fields():
  lists = {
    'country': entities.COUNTRIES,
    'city': entities.CITIES,
    'sight': entities.SIGHTS,
    'person': entities.PEOPLE,
    'first': entities.FIRST_NAMES,
    'surname': entities.SURNAMES,
    'word': entities.SPELLING_WORDS,
    'topic': entities.TOPICS,
    'how': CONSTRAINTS,
    'How': CONSTRAINTS,
    'month': ('[a-z]+',),
  }
  fields = {name: alternatives(items) for name, items in lists.items()}
  fields |= dict.fromkeys('abc', alternatives(sum(entities.GROUPS, ())))
  fields |= dict.fromkeys(('spelt', 'spelt_surname'), '[a-z]+')
  fields['month'] = '[a-z]+'
  return fields


QUESTION_FIELDS = {
  'noun': '[a-z]{3,12}',
  'verb': '[a-z]{3,12}',
  'adjective': '[a-z]{3,12}',
  'a': 'an?',
  'place': '[a-z]+(?: [a-z]+){0,2}',
  'number': r'(?:\d+|[a-z]+(?: [a-z]+)?)',
}


def pattern_of(template, fields):
  """A regular expression of all lines that a template makes, whatever is filled in."""
  pieces = re.split(r'\{(\w+)\}', template)
  made = ''
  for literal, field in zip(pieces[::2], [*pieces[1::2], None], strict=True):
    made += re.sub(r'[^\w\s]', '', literal.lower())
    if field:
      made += fields.get(field.rstrip('0123456789'), _NUMBER)
  return re.compile(_OPENINGS + ' '.join(made.split()) + _ENDINGS)


def request_patterns():
  fields = request_fields()
  return [pattern_of(t, fields) for kind in TEMPLATES.values() for t in kind]


def question_patterns():
  templates = (
    *questions.NOUN_TEMPLATES,
    *questions.VERB_TEMPLATES,
    *questions.ADJECTIVE_TEMPLATES,
    *questions.PLACE_TEMPLATES,
    *questions.NUMBER_TEMPLATES,
  )
  return [pattern_of(template, QUESTION_FIELDS) for template in templates]


@pytest.mark.parametrize('make_patterns', [request_patterns, question_patterns])
def test_no_template_makes_a_sentence(evaluated, make_patterns):
  patterns = make_patterns()
  faults = {
    id: (text, pattern.pattern)
    for text, id in evaluated.items()
    for pattern in patterns
    if pattern.fullmatch(text)
  }
  assert not faults, faults


def test_the_patterns_match_what_the_templates_make():
  patterns = request_patterns()
  for line in make_requests(400, 'train', 3):
    assert any(pattern.fullmatch(simplify(line)) for pattern in patterns), line
  assert any(
    pattern.fullmatch('which city is the capital of new zealand')
    for pattern in question_patterns()
  )
