# SPDX-License-Identifier: Apache-2.0
"""Tokenizers as fields of a GGUF file, read by our reader."""

import dataclasses

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.text import gguf
from acl_jax.text.byte_level import SPLITTERS, make_pre_tokenizer
from acl_jax.text.gguf_export import UNKNOWN_TOKEN, describe_tokenizer, find_name
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.gguf_write import write
from tests.tiny_world import write_tokenizer

SIZE = 409  # embeddings of the LLM, more than any of the tokenizers has tokens


@pytest.fixture(scope='module')
def byte_level(tmp_path_factory):
  write_tokenizer(tmp_path_factory.mktemp('byte_level') / 'llama')
  return tmp_path_factory.getbasetemp() / 'byte_level0/llama'


@pytest.fixture(scope='module', params=['byte_level', 'llama_model', 'llama_json'])
def pair(request, tmp_path_factory):
  """A tokenizer, and what is read of the file that it was written to."""
  original = load_tokenizer(request.getfixturevalue(request.param))
  # One fixture ends a reply with a byte.
  original = dataclasses.replace(original, stop_ids=(original.eos_id,))
  path = tmp_path_factory.mktemp('written') / 'x.gguf'
  metadata = {'general.architecture': 'llama'} | describe_tokenizer(original, SIZE)
  write(path, metadata, [])
  return original, gguf.load(path)


@settings(max_examples=15, deadline=None)
@given(text=st.text(max_size=30) | st.sampled_from(["  I've  12 é\n\n漢🙂", 'What is']))
def test_text_has_the_same_ids(text, pair):
  original, written = pair
  for after in ('nothing', 'control', 'text'):
    expected = original.encode(text, after=after)
    assert written.encode(text, after=after) == expected
  assert written.decode(expected) == original.decode(expected)


def test_special_tokens_are_the_same(pair):
  original, written = pair
  control = dict(original.control_tokens)
  control.pop(UNKNOWN_TOKEN, None)
  assert control.items() <= written.control_tokens.items()
  assert (written.bos_id, written.eos_id) == (original.bos_id, original.eos_id)
  assert set(original.stop_ids) <= set(written.stop_ids)
  assert written.vocab_size == SIZE


@pytest.mark.parametrize('name', SPLITTERS)
def test_the_way_to_split_text_is_found(name):
  splitter = SPLITTERS[name]
  model = tokenizers.models.BPE({}, [], ignore_merges=splitter.whole_words)
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = make_pre_tokenizer(splitter)
  if splitter.composed:
    tokenizer.normalizer = tokenizers.normalizers.NFC()
  assert find_name(tokenizer) == name


def test_another_way_to_split_text_is_refused():
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({}, []))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  with pytest.raises(ValueError, match='another way than gpt-2, smollm, llama-bpe'):
    find_name(tokenizer)


def test_tokens_without_an_embedding_are_refused(byte_level):
  tokenizer = load_tokenizer(byte_level)
  size = tokenizer.vocab_size
  with pytest.raises(ValueError, match=f'has {size} tokens.*embeddings of {size - 1}'):
    describe_tokenizer(tokenizer, size - 1)


def test_stop_ids(byte_level):
  tokenizer = dataclasses.replace(load_tokenizer(byte_level), stop_ids=(2, 0, 1))
  fields = describe_tokenizer(tokenizer, SIZE)
  assert fields['tokenizer.ggml.eot_token_id'] == 0
  assert fields['tokenizer.ggml.eom_token_id'] == 1
  tokenizer = dataclasses.replace(tokenizer, stop_ids=(2, 0, 1, 5))
  with pytest.raises(ValueError, match=r'stop ids \(2, 0, 1, 5\); .* has three'):
    describe_tokenizer(tokenizer, SIZE)
