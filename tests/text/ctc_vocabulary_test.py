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
def test_normalise(text, expected):
  assert normalise(text) == expected


@given(st.text())
def test_normalise_is_idempotent(text):
  once = normalise(text)
  assert normalise(once) == once == ' '.join(once.split())


def test_decode_inverts_encode(folder):
  vocabulary = Vocabulary(folder)
  assert len(vocabulary) == SIZE
  for text in TEXTS:
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == normalise(text)
    assert max(ids) < SIZE
  assert vocabulary.encode(' ?! ') == []
  assert vocabulary.decode([SIZE, *vocabulary.encode('one'), SIZE]) == 'one'  # blanks


def test_training_is_deterministic(folder, tmp_path):
  train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model')
  content = (tmp_path / 'tokenizer.model').read_bytes()
  assert content == (folder / 'tokenizer.model').read_bytes()
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.model']


def test_error_names_unknown_characters(folder):
  with pytest.raises(ValueError, match="vocabulary .*'zж'"):
    Vocabulary(folder).encode('zone ж')


def test_max_piece_length_is_respected(tmp_path):
  train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model', max_piece_length=2)
  file = str(tmp_path / 'tokenizer.model')
  model = sentencepiece.SentencePieceProcessor(model_file=file)
  lengths = {len(model.id_to_piece(i)) for i in range(len(model)) if i}  # 0 is <unk>
  assert lengths == {1, 2}


@pytest.mark.parametrize('length', [0, -1, 513, True])
def test_max_piece_length_out_of_range_raises(tmp_path, length):
  with pytest.raises(ValueError, match=f'max_piece_length.*{length!r}.*1.*512'):
    train_vocabulary(TEXTS, SIZE, tmp_path / 'tokenizer.model', length)


def test_too_large_a_vocabulary_raises(tmp_path):
  match = r'tokenizer\.model: .*5000.*Vocabulary size'
  with pytest.raises(ValueError, match=match) as error:
    train_vocabulary(TEXTS, 5_000, tmp_path / 'tokenizer.model')
  assert '\n' not in str(error.value)


def test_tokenizer_json(tmp_path):
  pieces = {'<unk>': 0, '▁one': 1, '▁two': 2, 's': 3}
  model = tokenizers.models.BPE(pieces, [], unk_token='<unk>', fuse_unk=True)
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  tokenizer.decoder = tokenizers.decoders.Metaspace()
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  vocabulary = Vocabulary(tmp_path)
  assert len(vocabulary) == 4
  assert vocabulary.decode([1, 3, 2, 4]) == 'ones two'


@pytest.mark.parametrize('name', ['tokenizer.model', 'tokenizer.json'])
def test_error_names_a_corrupt_file(tmp_path, name):
  (tmp_path / name).write_bytes(b'\x01rubbish')
  with pytest.raises(ValueError, match=f'{name}: '):
    Vocabulary(tmp_path)


def test_error_names_missing_files(tmp_path):
  match = r'tokenizer\.model.*tokenizer\.json'
  with pytest.raises(FileNotFoundError, match=match):
    Vocabulary(tmp_path)
