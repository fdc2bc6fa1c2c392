# SPDX-License-Identifier: Apache-2.0
import re

import pytest

from data_pipeline.corpus_tools import entities
from data_pipeline.corpus_tools.entities import share
from data_pipeline.corpus_tools.requests import FIRST_QUESTION, make_requests
from data_pipeline.corpus_tools.splits import normalize
from data_pipeline.corpus_tools.templates import TEMPLATES

LISTS = [
  value for name, value in vars(entities).items() if name.isupper() and name != 'GROUPS'
]


def contains(line, name):
  return re.search(rf'(?<!\w){re.escape(name)}(?!\w)', line) is not None


@pytest.fixture(scope='module')
def lines():
  return make_requests(2_000, 'train'), make_requests(200, 'heldout')


def test_lines_are_distinct_and_depend_on_the_seed(lines):
  train, _ = lines
  assert len(set(train)) == 2_000
  assert make_requests(300, 'train') == train[:300] != make_requests(300, 'train', 1)


def test_splits_share_no_sentence_and_no_name(lines):
  train, held_out = lines
  assert {normalize(x) for x in train}.isdisjoint(normalize(x) for x in held_out)
  for names in LISTS:
    assert set(share(names, 'train')).isdisjoint(share(names, 'heldout'))
  countries = share(entities.COUNTRIES, 'heldout')
  assert not [x for x in train if any(contains(x, name) for name in countries)]
  countries = share(entities.COUNTRIES, 'train')
  assert not [x for x in held_out if any(contains(x, name) for name in countries)]


def test_the_first_question_is_held_out(lines):
  train, held_out = lines
  assert held_out[0] == FIRST_QUESTION
  assert not [line for line in train if re.search('France|Paris', line)]


def test_lines_are_written_as_people_write(lines):
  train, held_out = lines
  text = '\n'.join(train)
  for pattern in (
    r'\b\d{1,2}:\d\d\b', r'\$\d', r'\d\.\d', r'\d,\d{3}', r'%', r'\b[A-Z](-[A-Z]){3}',
    r', \w+ or ', r'in exactly', r"I'm", r'\bspell', r'555-\d{4}', r'p\.m\.',
  ):  # fmt: skip
    assert re.search(pattern, text), pattern
  for line in train + held_out:
    assert not re.search(r'[{}]|\.\.|  |, (What|How|Who|Is) ', line), line
    assert line[-1] in '.?!', line


def test_every_kind_is_asked(lines):
  for split, asked in zip(('train', 'heldout'), lines, strict=True):
    for kind, templates in TEMPLATES.items():
      plain = [t for t in share(templates, split) if '{' not in t]
      starts = [t.split('{')[0] for t in share(templates, split)] + plain
      assert any(line.startswith(s) for s in starts if s for line in asked), kind


def test_too_many_lines_are_refused(monkeypatch):
  monkeypatch.setattr(
    'data_pipeline.corpus_tools.requests.TEMPLATES', {'small_talk': ('Hello.',)}
  )
  with pytest.raises(ValueError, match='only 1 distinct lines, not 2'):
    make_requests(2, 'train')


def test_program(run_program, tmp_path):
  path = tmp_path / 'lines.txt'
  arguments = ('--split=heldout', '--count=7', f'--output={path}')
  done = run_program('data_pipeline.questions', *arguments)
  assert done.stdout == f'questions: 7 lines in {path}\n', done.stderr
  assert path.read_text().splitlines() == make_requests(7, 'heldout')
