# SPDX-License-Identifier: Apache-2.0
import random
from collections import Counter

import pytest

from data_pipeline.corpus_tools import questions, sentences

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
  """The files of WordNet that are read, with a licence at the top."""
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


def test_usage_examples(wordnet):
  assert sentences.usage_examples(sentences.read_glosses(wordnet)) == [
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
  'quote, sentence',
  [
    ('two words', None),
    ('it costs 5 dollars', None),
    ('"so" they said to us', None),
    ('all   in\tone  line', 'All in one line.'),
    ('who is it?', 'Who is it?'),
    ("i think i'm ill;", "I think I'm ill."),
  ],
)
def test_as_sentence(quote, sentence):
  assert sentences.as_sentence(quote) == sentence


def test_common_words(wordnet):
  assert questions.common_words(wordnet, 'noun') == sorted(NOUNS)
  assert questions.common_words(wordnet, 'adjective') == ['old', 'tall']
  assert questions.common_words(wordnet, 'satellite') == ['new']


def test_lines_depend_on_the_seed_only(wordnet):
  lines = sentences.make_lines(wordnet, 60, 11, seed=3)
  assert sentences.make_lines(wordnet, 60, 11, seed=3) == lines
  assert sentences.make_lines(wordnet, 60, 11, seed=4) != lines


@pytest.mark.parametrize('seed', range(5))
def test_held_out_lines_are_distinct_and_reserved_phrase_is_absent(wordnet, seed):
  lines, held_out = sentences.make_lines(wordnet, 200, 11, seed)
  assert len(held_out) == 11
  assert len(lines) == len(set(lines)) and len(held_out) == len(set(held_out))
  assert not set(lines) & set(held_out)
  assert any('Upper Volta' in line for line in lines)
  assert not any(sentences.RESERVED_PHRASE in line for line in lines + held_out)
  assert not any('{' in line for line in lines)


def test_vocabulary_limits_the_words_of_lines(wordnet):
  examples = {*sentences.usage_examples(sentences.read_glosses(wordnet))}
  examples = {line for line in examples if sentences.RESERVED_PHRASE not in line}
  lines, held_out = sentences.make_lines(wordnet, 300, 2, seed=0, vocabulary=27)
  words = {word for line in lines + held_out for word in sentences.split_words(line)}
  assert 0 < len(words) <= 27 and len(held_out) == 2
  assert 0 < len(examples & {*lines, *held_out}) < len(examples)
  lines, _ = sentences.make_lines(wordnet, 300, 0, seed=0, vocabulary=10_000)
  assert examples <= {*lines}


def test_word_lists_have_all_words_equally_often(wordnet):
  lines, held_out = sentences.make_lines(wordnet, 60, 5, seed=0, vocabulary=27)
  more, same_held_out = sentences.make_lines(
    wordnet, 60, 5, seed=0, vocabulary=27, lists=50
  )
  assert {*same_held_out} == {*held_out} and {*lines} < {*more}
  lists = {*more} - {*lines}
  assert len(lists) == len(more) - len(lines) <= 50
  lines = sentences.make_word_lists('a b c d e f g'.split(), 50, random.Random(0))
  words = [sentences.split_words(line) for line in lines]
  assert {*map(len, words)} == {4, 5, 6}
  counts = Counter(word for line in words for word in line).values()
  assert len(counts) == 7 and max(counts) - min(counts) <= 1


def test_word_lists_need_a_vocabulary(wordnet):
  with pytest.raises(ValueError, match='--lists=3.*--vocabulary'):
    sentences.make_lines(wordnet, 60, 5, seed=0, lists=3)


def test_word_lists_without_words_are_rejected(wordnet, monkeypatch):
  monkeypatch.setattr(sentences, 'usage_examples', lambda glosses: [])
  with pytest.raises(ValueError, match=f'{wordnet}.*--lists=3'):
    sentences.make_lines(wordnet, 60, 0, seed=0, vocabulary=27, lists=3)


def test_held_out_lines_have_the_same_share_of_examples(wordnet):
  examples = {*sentences.usage_examples(sentences.read_glosses(wordnet))}
  lines, held_out = sentences.make_lines(wordnet, 60, 40, seed=0)
  shares = [len(examples & {*part}) / len(part) for part in (lines, held_out)]
  assert 0 < shares[0] < 3 / 5  # there are too few examples
  assert abs(shares[0] - shares[1]) <= 1 / 60 + 1 / 40  # up to one line each


def test_lines_with_rare_words_are_selected_first():
  lines = ['a b', 'a b', 'a', 'b', 'a b c', 'b a', 'd']
  ordered = ['a b', 'a', 'b', 'a b c', 'd', 'b a']
  assert sentences.select_lines(lines, 4, min_uses=2) == ['a b', 'a', 'b', 'a b c']
  assert sentences.select_lines(lines, 9, min_uses=2) == ordered


def test_articles(wordnet):
  lines, _ = sentences.make_lines(wordnet, 300, 0, seed=0)
  text = ' '.join(lines)
  assert ' an apple' in text and ' a dog' in text
  assert ' a apple' not in text and ' an dog' not in text


@pytest.mark.full
def test_program(wordnet, tmp_path, start_program):
  out = tmp_path / 'lines'
  arguments = (f'--wordnet={wordnet}', '--count=20', '--held_out=4', f'--output={out}')
  done = start_program('data_pipeline.sentences', *arguments)
  assert done.returncode == 0, done.stderr
  assert len((tmp_path / 'lines-held-out.txt').read_text().splitlines()) == 4
  lines = (tmp_path / 'lines.txt').read_text().splitlines()
  assert f'{len(lines)} lines in {out}.txt' in done.stdout


@pytest.mark.full
def test_program_without_wordnet(tmp_path, run_program):
  arguments = (f'--wordnet={tmp_path}', f'--output={tmp_path / "lines"}')
  done = run_program('data_pipeline.sentences', *arguments)
  assert done.returncode == 1
  assert done.stderr == f'error: {tmp_path}/data.noun: No such file or directory\n'
