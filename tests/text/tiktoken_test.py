# SPDX-License-Identifier: Apache-2.0
"""Meta's tokenizer.model, against tiktoken's algorithm on the same ranks."""

import base64
import json

import hypothesis
import pytest
import regex
import tokenizers as library
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from acl_jax.text.byte_level import LLAMA3, write_bytes
from acl_jax.text.tokenizers import load_tokenizer
from tests.text.byte_level_test import CORPUS, TEXTS

BYTES = {write_bytes(bytes([byte])): byte for byte in range(256)}


def train_ranks() -> list[bytes]:
  """Train a byte-level BPE; returns its tokens in the order of their ranks."""
  tokenizer = library.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=480, initial_alphabet=alphabet, show_progress=False
  )
  tokenizer.train_from_iterator([CORPUS] * 3, trainer)
  vocab = tokenizer.get_vocab()
  return [bytes(BYTES[c] for c in token) for token in sorted(vocab, key=vocab.get)]


def write(folder, tokens, **params):
  lines = [b'%s %d\n' % (base64.b64encode(t), i) for i, t in enumerate(tokens)]
  (folder / 'tokenizer.model').write_bytes(b''.join(lines))
  (folder / 'params.json').write_text(json.dumps(params))
  return folder


@pytest.fixture(scope='module')
def ranks():
  return {token: i for i, token in enumerate([*train_ranks(), b'unmergeable'])}


@pytest.fixture(scope='module')
def llama3(ranks, tmp_path_factory):
  folder = write(tmp_path_factory.mktemp('llama3'), ranks, use_scaled_rope=True)
  return load_tokenizer(folder)


def encode_like_tiktoken(text, ranks):
  """Split, then join the neighbours whose union has the lowest rank, leftmost first."""
  ids = []
  for word in regex.findall(LLAMA3, text):
    data = word.encode()
    parts = [data] if data in ranks else [data[i : i + 1] for i in range(len(data))]
    while True:
      joined = [
        ranks.get(a + b, 1 << 30) for a, b in zip(parts, parts[1:], strict=False)
      ]
      if not joined or min(joined) == 1 << 30:
        break
      i = joined.index(min(joined))
      parts[i : i + 2] = [parts[i] + parts[i + 1]]
    ids += [ranks[part] for part in parts]
  return ids


@pytest.mark.parametrize('text', [*TEXTS, 'unmergeable', '<|eot_id|>'])
def test_tokens_equal_tiktoken(text, llama3, ranks):
  assert llama3.encode(text) == encode_like_tiktoken(text, ranks)
  assert llama3.decode(llama3.encode(text)) == text


@hypothesis.given(text=st.text(max_size=40))
@hypothesis.settings(max_examples=40)
def test_tokens_of_any_text_equal_tiktoken(text, llama3, ranks):
  assert llama3.encode(text) == encode_like_tiktoken(text, ranks)


def test_control_tokens_of_llama_3_and_later(llama3, ranks, tmp_path):
  first = len(ranks)
  assert llama3.vocab_size == first + 256
  assert (llama3.bos_id, llama3.eos_id) == (first, first + 1)
  assert llama3.stop_ids == (first + 1, first + 8, first + 9)
  for name, place in (
    ('<|finetune_right_pad_id|>', 4),
    ('<|start_header_id|>', 6),
    ('<|end_header_id|>', 7),
    ('<|eom_id|>', 8),
    ('<|python_tag|>', 10),
    ('<|reserved_special_token_2|>', 12),
    ('<|reserved_special_token_245|>', 255),
  ):
    assert llama3.control_id(name) == first + place
  old = load_tokenizer(write(tmp_path, ranks))
  assert old.stop_ids == (first + 1, first + 9)
  assert old.control_id('<|reserved_special_token_4|>') == first + 8
  assert old.control_id('<|reserved_special_token_250|>') == first + 255
  assert len(old.control_tokens) == len(llama3.control_tokens) == 256


@pytest.mark.parametrize(
  'line, match',
  [
    (b'IQ== 7', 'line 3 has the rank 7 .* rank 2'),
    (b'AA== 2', 'line 3 has the rank 2 or a token of an earlier line'),
    (b'IQ==', 'line 3 is not the base64'),
    (b'IQ 2', 'line 3 is not the base64'),
    (b'\xff 2', 'line 3 is not the base64'),
    (b'%s 2' % base64.b64encode(bytes(2000)), 'line 3 is not the base64 of 1 to 1024'),
    (b'IQ== 2', 'no line is the byte 1'),
  ],
)
def test_a_wrong_line_is_named(line, match, tmp_path):
  (tmp_path / 'tokenizer.model').write_bytes(b'AA== 0\r\nIiI= 1\n' + line)
  with pytest.raises(ValueError, match=rf'tokenizer\.model: {match}'):
    load_tokenizer(tmp_path)


@hypothesis.given(data=st.binary(max_size=40), cut=st.integers(0, 3000))
@hypothesis.settings(max_examples=40)
def test_a_damaged_file_is_one_sentence(data, cut, ranks, tmp_path_factory):
  folder = write(tmp_path_factory.getbasetemp(), ranks)
  path = folder / 'tokenizer.model'
  whole = path.read_bytes()
  path.write_bytes(whole[:cut] + data + whole[cut + len(data) :])
  try:
    load_tokenizer(path)
  except ValueError as error:
    assert 'tokenizer.model: ' in str(error)
