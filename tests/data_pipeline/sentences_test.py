# SPDX-License-Identifier: Apache-2.0
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline import questions, sentences

ROOT = Path(__file__).parents[2]
NOUNS = ('dog', 'apple', 'engine', 'river', 'hat')
VERBS = ('open', 'find', 'carry')
GLOSSES = {
  'noun': [
    'a domesticated animal; "the dog barked all night"; "he has an old dog"',
    'the capital and largest city of France; "Paris, the capital of France, is big"',
    'the capital of Upper Volta; the seat of something',
    'the capital of the Norway; "do not go there"',
    'a mechanism; "an engine that runs on 5 volts"; "too short"',
  ],
  'verb': ['to make open; "open the door, please"; "i will open it if i can,"'],
  'adj': ['of great height; "a tall tree stood there"; "is it a tall one?"'],
  'adv': ['in a happy manner; "they laughed happily"'],
}


@pytest.fixture
def wordnet(tmp_path):
  """The two kinds of WordNet's files that are read, with a licence as their head."""
  for part, glosses in GLOSSES.items():
    lines = ['  1 This software and database is being provided to you']
    lines += [f'{i:08d} 05 n 01 x 0 000 | {gloss}  ' for i, gloss in enumerate(glosses)]
    (tmp_path / f'data.{part}').write_text('\n'.join(lines), encoding='latin-1')
  lines = [f'{noun}%1:05:00:: 1 {count}' for count, noun in enumerate(NOUNS, 2)]
  lines += [f'{verb}%2:35:00:: 1 4' for verb in VERBS]
  lines += ['tall%3:00:00:: 1 9', 'new%5:00:00:other:00 1 3', 'old%3:00:00:: 1 2']
  lines += ['rare%3:00:00:: 1 1', 'ice_cream%1:13:00:: 1 8', 'tall%3:00:02:: 2 1']
  (tmp_path / 'cntlist.rev').write_text('\n'.join(lines) + '\n', encoding='latin-1')
  return tmp_path


def test_examples_become_sentences(wordnet):
  found = sentences.examples(sentences.read_glosses(wordnet))
  assert found == [
    'A tall tree stood there.',
    'Do not go there.',
    'He has an old dog.',
    'I will open it if I can.',
    'Is it a tall one?',
    'Open the door, please.',
    'Paris, the capital of France, is big.',
    'The dog barked all night.',
    'They laughed happily.',
  ]


@pytest.mark.parametrize(
  'quoted, sentence',
  [
    ('two words', None),
    ('it costs 5 dollars', None),
    ('"so" they said to us', None),
    ('all   in\tone  line', 'All in one line.'),
    ('who is it?', 'Who is it?'),
    ("i think i'm ill;", "I think I'm ill."),
  ],
)
def test_only_what_can_be_said_is_a_sentence(quoted, sentence):
  assert sentences.as_sentence(quoted) == sentence


def test_common_words_are_plain_and_frequent(wordnet):
  assert questions.common_words(wordnet, 'noun') == sorted(NOUNS)
  assert questions.common_words(wordnet, 'adjective') == ['old', 'tall']
  assert questions.common_words(wordnet, 'satellite') == ['new']


def test_the_same_seed_makes_the_same_lines(wordnet):
  made = sentences.make_lines(wordnet, 60, 11, seed=3)
  assert sentences.make_lines(wordnet, 60, 11, seed=3) == made
  assert sentences.make_lines(wordnet, 60, 11, seed=4) != made


@pytest.mark.parametrize('seed', range(5))
def test_held_out_lines_are_others_and_the_unseen_question_is_in_neither(wordnet, seed):
  lines, held_out = sentences.make_lines(wordnet, 200, 11, seed)
  assert len(held_out) == 11
  assert len(lines) == len(set(lines)) and len(held_out) == len(set(held_out))
  assert not set(lines) & set(held_out)
  assert any('Upper Volta' in line for line in lines)
  assert not any(sentences.UNSEEN in line for line in lines + held_out)
  assert not any('{' in line for line in lines)


def test_a_vocabulary_leaves_only_lines_of_its_words(wordnet):
  said = {*sentences.examples(sentences.read_glosses(wordnet))}
  said = {line for line in said if sentences.UNSEEN not in line}
  lines, held_out = sentences.make_lines(wordnet, 300, 2, seed=0, vocabulary=27)
  words = {word for line in lines + held_out for word in sentences.words_of(line)}
  assert 0 < len(words) <= 27 and len(held_out) == 2
  assert 0 < len(said & {*lines, *held_out}) < len(said)
  lines, _ = sentences.make_lines(wordnet, 300, 0, seed=0, vocabulary=10_000)
  assert said <= {*lines}


def test_word_lists_have_every_word_as_often_as_any_other(wordnet):
  lines, aside = sentences.make_lines(wordnet, 60, 5, seed=0, vocabulary=27)
  more, aside_too = sentences.make_lines(
    wordnet, 60, 5, seed=0, vocabulary=27, lists=50
  )
  assert {*aside_too} == {*aside} and {*lines} < {*more}
  lists = {*more} - {*lines}
  assert len(lists) == len(more) - len(lines) <= 50
  words = sentences.word_lists('a b c d e f g'.split(), 50, random.Random(0))
  words = [sentences.words_of(line) for line in words]
  assert {*map(len, words)} == {4, 5, 6}
  often = Counter(word for line in words for word in line).values()
  assert len(often) == 7 and max(often) - min(often) <= 1


def test_word_lists_need_a_vocabulary(wordnet):
  with pytest.raises(ValueError, match='--lists=3 needs a --vocabulary'):
    sentences.make_lines(wordnet, 60, 5, seed=0, lists=3)


def test_lists_of_no_words_are_refused(wordnet, monkeypatch):
  monkeypatch.setattr(sentences, 'examples', lambda glosses: [])
  with pytest.raises(ValueError, match='its examples have no word to make lists of'):
    sentences.make_lines(wordnet, 60, 0, seed=0, vocabulary=27, lists=3)


def test_held_out_lines_are_of_the_kinds_that_are_trained_on(wordnet):
  said = {*sentences.examples(sentences.read_glosses(wordnet))}
  lines, held_out = sentences.make_lines(wordnet, 60, 40, seed=0)
  shares = [len(said & {*part}) / len(part) for part in (lines, held_out)]
  assert 0 < shares[0] < 3 / 5  # the examples ran short
  assert abs(shares[0] - shares[1]) <= 1 / 60 + 1 / 40  # a line moved


def test_new_words_come_first():
  lines = ['a b', 'a b', 'a', 'b', 'a b c', 'b a', 'd']
  assert sentences.select(lines, 4, wanted=2) == ['a b', 'a', 'b', 'a b c']
  assert sentences.select(lines, 9, wanted=2) == ['a b', 'a', 'b', 'a b c', 'd', 'b a']


def test_articles(wordnet):
  lines, _ = sentences.make_lines(wordnet, 300, 0, seed=0)
  text = ' '.join(lines)
  assert ' an apple' in text and ' a dog' in text
  assert ' a apple' not in text and ' an dog' not in text


def run(*arguments):
  command = [sys.executable, '-m', 'data_pipeline.sentences', *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_program(wordnet, tmp_path):
  out = tmp_path / 'lines'
  done = run(f'--wordnet={wordnet}', '--count=20', '--held_out=4', f'--output={out}')
  assert done.returncode == 0, done.stderr
  assert len((tmp_path / 'lines-held-out.txt').read_text().splitlines()) == 4
  lines = (tmp_path / 'lines.txt').read_text().splitlines()
  assert f'{len(lines)} lines in {out}.txt' in done.stdout


def test_program_without_wordnet(tmp_path):
  done = run(f'--wordnet={tmp_path}', f'--output={tmp_path / "lines"}')
  assert done.returncode == 1
  assert done.stderr == f'error: {tmp_path}/data.noun: No such file or directory\n'
