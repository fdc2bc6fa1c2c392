# SPDX-License-Identifier: Apache-2.0
"""Byte-level tokenizers in GGUF files, compared with Transformers'."""

import json
import time
import unicodedata

import gguf
import hypothesis
import pytest
import tokenizers as library
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.integrations.gguf import gguf_tokenizer_mapping as oracle

from acl_jax.text.tokenizers import load_tokenizer

CONTROL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
CORPUS = """What's the capital of France? I'LL say it's PARIS, don't you know?
In 2024 12345 users paid 3,14159 € for über-naïve façades:   spaces,	tabs.

def f(x):  return x**2 / 10 # ok // done
漢字かな交じり文 한국어 문장 Привет мир, ЁЛКА שלום नमस्ते"""
TEXTS = [
  *CORPUS.splitlines(),
  '  two  spaces, a\ttab and\r\n\r\n a blank line  \n',
  "IT'S they'Ve o'clock 'tis 1234567 10½ ٣٤ x2y3",
  'naïve façade e\u0301 🙂👩‍👩‍👧 \x00\x7f\ufeff',
  'CamelCaseWord HTTPServer/path//to ... !!!\n\n/x',
  ' ' * 9 + 'deep' + '\n' * 3 + ' ',
  '',
]
PRES = ['llama-bpe', 'qwen2', 'tekken', 'gpt-2']
any_text = st.text(max_size=40)


@pytest.fixture(scope='module')
def trained():
  """Tokens and merges of a byte-level BPE; no text spells the last token by merges."""
  tokenizer = library.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=520,
    special_tokens=CONTROL,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator([CORPUS] * 3, trainer)
  model = json.loads(tokenizer.to_str())['model']
  merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
  tokens = sorted(model['vocab'], key=model['vocab'].get)
  return [*tokens, 'unmergeable'], merges


def write(path, trained, pre='llama-bpe', **fields):
  """Write a GGUF file with only a tokenizer; a field that is None is left out."""
  tokens, merges = trained
  values = {
    'model': 'gpt2',
    'pre': pre,
    'tokens': tokens,
    'merges': merges,
    'token_type': [3 if token in CONTROL else 1 for token in tokens],
    'bos_token_id': 0,
    'eos_token_id': 2,
    **fields,
  }
  writer = gguf.GGUFWriter(path, 'llama')
  for name, value in values.items():
    key = f'tokenizer.ggml.{name}'
    if isinstance(value, list):
      writer.add_array(key, value)
    elif isinstance(value, str):
      writer.add_string(key, value)
    elif value is not None:
      writer.add_uint32(key, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return path


@pytest.fixture(scope='module', params=PRES)
def pair(request, trained, tmp_path_factory):
  """Our tokenizer of a file, and Transformers' of the same fields."""
  path = tmp_path_factory.mktemp(request.param) / 'x.gguf'
  tokens, merges = trained
  fields = {'tokenizer_type': 'gpt2', 'pre_tokenizer_type': request.param}
  fields |= {'tokens': tokens, 'merges': merges}
  reference, _ = oracle.convert_gguf_tokenizer('llama', fields)
  if request.param == 'qwen2':  # Transformers forgets the normalizer of its own class
    vocab = {token: i for i, token in enumerate(tokens)}
    merged = [tuple(merge.split()) for merge in merges]
    reference = Qwen2Tokenizer(vocab=vocab, merges=merged)._tokenizer
  return load_tokenizer(write(path, trained, request.param)), reference


def assert_equal(pair, text):
  ours, reference = pair
  ids = reference.encode(text, add_special_tokens=False).ids
  assert ours.encode(text) == ids
  assert ours.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize('text', TEXTS)
def test_tokens_equal_transformers(pair, text):
  assert_equal(pair, text)


@hypothesis.given(text=any_text)
@hypothesis.settings(max_examples=40)
def test_tokens_of_any_text_equal_transformers(pair, text):
  assert_equal(pair, text)


def test_smollm_and_default_split_numbers(trained, tmp_path):
  for pre, expected in (
    ('smollm', ['a', '1', '2', '3', '4', '!', '5']),
    ('default', ['a', '123', '4', '!', '5']),
    ('llama-bpe', ['a', '123', '4', '!', '5']),
    ('gpt-2', ['a', '1234', '!', '5']),
  ):
    tokenizer = load_tokenizer(write(tmp_path / f'{pre}.gguf', trained, pre))
    splitter = tokenizer.backends.nothing.tokenizer.pre_tokenizer
    assert [word for word, _ in splitter.pre_tokenize_str('a1234!5')] == expected


def test_a_word_that_is_a_token_is_not_merged_from_parts(trained, tmp_path):
  for pre, whole in (('llama-bpe', True), ('tekken', True), ('qwen2', False)):
    tokenizer = load_tokenizer(write(tmp_path / f'{pre}.gguf', trained, pre))
    assert (len(tokenizer.encode('unmergeable')) == 1) is whole


def test_an_alias_is_the_same_splitter(trained, tmp_path):
  names = ('llama-v3', 'llama-bpe', 'deepseek-r1-qwen', 'qwen2')
  a, b, c, d = (
    load_tokenizer(write(tmp_path / f'{name}.gguf', trained, name)) for name in names
  )
  assert (
    a.encode('12345') == b.encode('12345') != c.encode('12345') == d.encode('12345')
  )


@pytest.mark.parametrize('control', ['What', ' ', 'unmergeable', 'What the'])
def test_text_never_becomes_a_control_token(control, trained, tmp_path):
  tokens, merges = trained
  tokens = [*tokens[:3], *(t for t in tokens[3:] if t != control), control]
  if control == 'What':
    assert 'W hat' in merges or 'Wh at' in merges or control in trained[0]
  types = [3 if token in (*CONTROL, control) else 1 for token in tokens]
  merges = [m for m in merges if set(m.split() + [m.replace(' ', '')]) <= set(tokens)]
  path = write(tmp_path / 'x.gguf', (tokens, merges), token_type=types)
  tokenizer = load_tokenizer(path)
  assert tokenizer.control_id(control) == len(tokens) - 1
  for text in (
    control,
    f'a {control}',
    f'{control}s',
    f'{control} {control}',
    CONTROL[2],
  ):
    assert not set(tokenizer.encode(text)) & set(tokenizer.control_tokens.values())


def test_types_are_optional(trained, tmp_path):
  plain = load_tokenizer(write(tmp_path / 'a.gguf', trained, token_type=None))
  typed = load_tokenizer(write(tmp_path / 'b.gguf', trained))
  assert plain.control_tokens == typed.control_tokens
  assert plain.encode(CORPUS) == typed.encode(CORPUS)


def test_tokens_that_end_a_turn_are_control_tokens_whatever_their_type(
  trained, tmp_path
):
  types = [4 if token in CONTROL else 1 for token in trained[0]]
  tokenizer = load_tokenizer(write(tmp_path / 'x.gguf', trained, token_type=types))
  assert list(tokenizer.control_tokens) == CONTROL


def test_user_defined_tokens_are_found_in_text(trained, tmp_path):
  tokens, merges = [*trained[0], '<think>'], trained[1]
  types = [3 if token in CONTROL else 1 for token in tokens[:-1]] + [4]
  path = write(tmp_path / 'x.gguf', (tokens, merges), token_type=types)
  assert len(tokens) - 1 in load_tokenizer(path).encode('a<think>b')


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({}, (2,)),
    ({'eos_token_id': 0}, (0, 2)),
    ({'eot_token_id': 1}, (2, 1)),
    ({'eot_token_id': 2, 'eom_token_id': 1}, (2, 1)),
  ],
  ids=str,
)
def test_several_tokens_may_end_a_response(fields, expected, trained, tmp_path):
  tokenizer = load_tokenizer(write(tmp_path / 'x.gguf', trained, **fields))
  assert tokenizer.stop_ids == expected


@pytest.mark.parametrize(
  'fields, match',
  [
    ({'pre': 'viking'}, "tokenizer.ggml.pre: 'viking' .* llama-bpe"),
    ({'pre': None}, 'tokenizer.ggml.pre is missing'),
    ({'eos_token_id': None}, 'tokenizer.ggml.eos_token_id is missing'),
    ({'eos_token_id': 9999}, 'tokenizer.ggml.eos_token_id = 9999'),
    ({'bos_token_id': 9999}, 'tokenizer.ggml.bos_token_id = 9999'),
    ({'token_type': [1, 3]}, 'tokenizer.ggml.token_type has 2 values'),
    ({'token_type': 1}, 'tokenizer.ggml.token_type has 1 value'),
    ({'merges': ['a']}, "tokenizer.ggml.merges: '' is not a token"),
    ({'merges': ['a b c']}, "tokenizer.ggml.merges: '(b c|ab c)' is not"),
    ({'merges': ['a ☃']}, "tokenizer.ggml.merges: '(a|☃|a☃)' is not"),
    ({'tokens': [1, 2]}, 'tokenizer.ggml.tokens is not an array of strings'),
  ],
  ids=str,
)
def test_a_wrong_field_is_named(fields, match, trained, tmp_path):
  path = write(tmp_path / 'x.gguf', trained, **fields)
  with pytest.raises(ValueError, match=rf'x\.gguf: {match}'):
    load_tokenizer(path)


def test_a_large_vocabulary_takes_a_moment(tmp_path):
  """Published ones have up to 150,000 tokens, nearly all of them merges."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())[-200:]
  merges = [f'{a} {b}' for a in letters for b in letters]
  tokens = [*CONTROL, *letters, *(merge.replace(' ', '') for merge in merges)]
  path = write(tmp_path / 'x.gguf', (tokens, merges))
  start = time.process_time()
  tokenizer = load_tokenizer(path)
  assert time.process_time() - start < 10  # a minute if each merge saw every token
  assert tokenizer.decode(tokenizer.encode('very large')) == 'very large'


def test_qwen2_composes_characters(trained, tmp_path):
  tokenizer = load_tokenizer(write(tmp_path / 'x.gguf', trained, 'qwen2'))
  composed = unicodedata.normalize('NFC', 'e\u0301')
  assert tokenizer.encode('e\u0301') == tokenizer.encode(composed)


@pytest.fixture(scope='module')
def file(trained, tmp_path_factory):
  folder = tmp_path_factory.mktemp('damaged')
  return write(folder / 'x.gguf', trained).read_bytes(), folder / 'y.gguf'


@hypothesis.given(
  flips=st.dictionaries(st.integers(0, 16_000), st.binary(min_size=1, max_size=4))
)
@hypothesis.settings(max_examples=40)
def test_a_damaged_file_loads_or_is_one_sentence(flips, file):
  data, path = bytearray(file[0]), file[1]
  for position, new in flips.items():
    start = position % len(data)
    data[start : start + len(new)] = new
  path.write_bytes(data)
  try:
    load_tokenizer(path).encode(CORPUS)
  except ValueError as error:
    assert str(error).startswith(f'{path}: ') and '\n' not in str(error)
