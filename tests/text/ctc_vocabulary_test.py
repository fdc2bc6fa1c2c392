# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.text.ctc_vocabulary import Vocabulary, normalise, train_vocabulary

WORDS = ('one', 'two', 'tree', 'green', 'don’t', 'tall', 'Ninety', 'late', 'stone')
TEXTS = [' '.join(pair) + '.' for pair in itertools.permutations(WORDS, 2)]
SIZE = 24


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocabulary')
  train_vocabulary(TEXTS, SIZE, folder / 'tokenizer.model')
  return folder


@pytest.mark.parametrize(
  'text, expected',
  [
    ('Hello, World!', 'hello world'),
    ('“Don’t”—he said…', "don't he said"),
    ('ＦＵＬＬ width № 5_6', 'full width no 5 6'),
    ('Ünïcode café', 'ünïcode café'),
    (' \n ', ''),
  ],
)
def test_text_is_normalised(text, expected):
  assert normalise(text) == expected


@given(st.text())
def test_normalising_twice_is_once(text):
  once = normalise(text)
  assert normalise(once) == once == ' '.join(once.split())


def test_there_and_back(folder):
  vocabulary = Vocabulary(folder)
  assert len(vocabulary) == SIZE
  for text in TEXTS:
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == normalise(text)
    assert max(ids) < SIZE
  assert vocabulary.encode(' ?! ') == []
  assert vocabulary.decode([SIZE, *vocabulary.encode('one'), SIZE]) == 'one'  # blanks


def test_the_same_texts_give_the_same_file(folder, tmp_path):
  train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model')
  made = (tmp_path / 'tokenizer.model').read_bytes()
  assert made == (folder / 'tokenizer.model').read_bytes()
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.model']


def test_strange_characters_are_named(folder):
  with pytest.raises(ValueError, match="no piece of the vocabulary has 'zж'"):
    Vocabulary(folder).encode('zone ж')


def test_no_piece_is_longer_than_allowed(tmp_path):
  train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model', longest=2)
  file = str(tmp_path / 'tokenizer.model')
  model = sentencepiece.SentencePieceProcessor(model_file=file)
  lengths = {len(model.id_to_piece(i)) for i in range(len(model)) if i}  # 0 is <unk>
  assert lengths == {1, 2}


@pytest.mark.parametrize('longest', [0, -1, 513, True])
def test_lengths_that_no_piece_can_have(tmp_path, longest):
  with pytest.raises(
    ValueError, match=f'max_piece_length = {longest!r} is not 1 to 512'
  ):
    train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model', longest)


def test_more_pieces_than_the_texts_have(tmp_path):
  with pytest.raises(
    ValueError, match='no vocabulary of 5000 pieces .Vocabulary size'
  ) as error:
    train_vocabulary(TEXTS, 5_000, tmp_path / 'tokenizer.model')
  assert '\n' not in str(error.value)


def test_a_published_tokenizer(tmp_path):
  pieces = {'<unk>': 0, '▁one': 1, '▁two': 2, 's': 3}
  model = tokenizers.models.BPE(pieces, [], unk_token='<unk>', fuse_unk=True)
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  made.decoder = tokenizers.decoders.Metaspace()
  made.save(str(tmp_path / 'tokenizer.json'))
  vocabulary = Vocabulary(tmp_path)
  assert len(vocabulary) == 4
  assert vocabulary.decode([1, 3, 2, 4]) == 'ones two'


@pytest.mark.parametrize('name', ['tokenizer.model', 'tokenizer.json'])
def test_a_damaged_file_is_one_sentence(tmp_path, name):
  (tmp_path / name).write_bytes(b'\x01rubbish')
  with pytest.raises(ValueError, match=f'{name}: not a tokenizer'):
    Vocabulary(tmp_path)


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='neither tokenizer.model nor tokenizer'):
    Vocabulary(tmp_path)
