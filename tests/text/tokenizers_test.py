# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import gguf
import hypothesis
import pytest
import tokenizers as library
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from acl_jax.text import tokenizers
from acl_jax.text.model_proto import ModelProto
from tests.text.conftest import SMOLLM2

TEXTS = [
  'What is the capital of France?',
  ' two  spaces, a\ttab and\n\na blank line ',
  "it's 3,14159 or 10½ or ٣٤",
  'naïve façade 漢字 🙂 \x00\x7f',
  '▁ is not a space',
]
CONTROL = ['<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|endoftext|>']
# SmolLM2's vocabulary lacks some of the 256 bytes: it cannot spell all of Unicode.
latin_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x24F))


@pytest.fixture(
  scope='session', params=['llama_model', 'llama_json', 'tiny_chatml', SMOLLM2]
)
def tokenizer(request):
  value = request.getfixturevalue(request.param)
  return tokenizers.load_tokenizer(value) if isinstance(value, Path) else value


@hypothesis.given(text=st.lists(st.sampled_from(CONTROL) | st.text()).map(''.join))
def test_text_never_becomes_a_control_token(tokenizer, text):
  for after in ('nothing', 'control', 'text'):
    ids = tokenizer.encode(text, after=after)
    assert not set(ids) & set(tokenizer.control_tokens.values())


@hypothesis.given(text=st.lists(st.sampled_from(CONTROL) | latin_text).map(''.join))
def test_decode_inverts_encode(tokenizer, text):
  ids = [*tokenizer.encode('a'), *tokenizer.encode(text, after='text')]
  assert tokenizer.decode(ids) == 'a' + text


def test_token_text_keeps_the_leading_space(tokenizer):
  text = 'What is the capital of France?'
  pieces = [tokenizer.token_text(id) for id in tokenizer.encode(text)]
  assert ''.join(pieces).lstrip() == text
  assert len([piece for piece in pieces if piece.startswith(' ')]) >= 5


@pytest.mark.parametrize('text', TEXTS)
def test_sentencepiece_equals_transformers(llama_model, text):
  reference = LlamaTokenizer.from_pretrained(llama_model.parent, legacy=True)
  ours = tokenizers.load_tokenizer(llama_model)
  # Before these Transformers adds no space; sentencepiece does.
  if not text.startswith((' ', '▁')):
    assert ours.encode(text) == reference.encode(text, add_special_tokens=False)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2,))
  assert ours.vocab_size == len(reference)


@pytest.mark.parametrize('text', TEXTS)
def test_tokenizer_json_equals_the_library(llama_json, text):
  reference = library.Tokenizer.from_file(str(llama_json / 'tokenizer.json'))
  ours = tokenizers.load_tokenizer(llama_json)
  ids = reference.encode(text, add_special_tokens=False).ids
  assert ours.encode(text) == ids
  assert ours.decode([1, *ids, 2]) == reference.decode(ids)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2, 7))


@pytest.mark.full
@pytest.mark.parametrize('text', TEXTS)
def test_gguf_equals_transformers(smollm2, smollm2_reference, text):
  ours = smollm2
  assert ours.encode(text) == smollm2_reference.encode(text, add_special_tokens=False)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2,))
  assert ours.vocab_size == 49152
  assert ours.control_id('<|im_end|>') == 2


def test_gguf_equals_the_sentencepiece_model_in_it(llama_model, tmp_path):
  model = ModelProto.FromString(llama_model.read_bytes())
  writer = gguf.GGUFWriter(tmp_path / 'llama.gguf', 'llama')
  writer.add_tokenizer_model('llama')
  writer.add_token_list([piece.piece for piece in model.pieces])
  writer.add_token_scores([piece.score for piece in model.pieces])
  writer.add_token_types([piece.type for piece in model.pieces])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  ours = tokenizers.load_tokenizer(tmp_path / 'llama.gguf')
  expected = tokenizers.load_tokenizer(llama_model)
  assert ours.control_tokens == expected.control_tokens
  assert (ours.bos_id, ours.stop_ids) == (1, (2,))
  for text in TEXTS:
    for after in ('nothing', 'control', 'text'):
      ids = expected.encode(text, after=after)
      assert ours.encode(text, after=after) == ids
      assert ours.decode(ids) == expected.decode(ids)


def test_tokens_without_an_embedding_are_refused(chatml_tokenizer):
  ids = chatml_tokenizer.encode('yes')
  few = dataclasses.replace(chatml_tokenizer, num_embeddings=max(ids))
  with pytest.raises(ValueError, match=f'^text has the token {max(ids)}; the LLM has'):
    few.encode('yes')
  enough = dataclasses.replace(few, num_embeddings=max(ids) + 1)
  assert enough.encode('yes') == ids and enough.encode('') == []
  none = dataclasses.replace(few, num_embeddings=0)
  with pytest.raises(ValueError, match=r'control token <\|im_end\|> has the token'):
    none.control_id('<|im_end|>')
  with pytest.raises(ValueError, match='^it has the token -1; '):
    enough.check_embedded([0, -1], 'it')
  assert enough.decode([-1, *ids, 10**6]) == 'yes'


def test_prefix_space(llama_model, llama_json, chatml_tokenizer):
  for path in (llama_model, llama_json):
    ours = tokenizers.load_tokenizer(path)
    assert ours.adds_prefix_space
    assert ours.encode('hi') == ours.encode('hi', after='control')
    assert ours.encode('hi') == ours.encode(' hi', after='text')
  assert not chatml_tokenizer.adds_prefix_space


def test_metaspace_first_adds_a_space_only_at_the_start(llama_json, tmp_path):
  spec = json.loads((llama_json / 'tokenizer.json').read_text())
  spec['normalizer'] = None
  metaspace = {'type': 'Metaspace', 'replacement': '▁', 'split': False}
  spec['pre_tokenizer'] = metaspace | {'prepend_scheme': 'first'}
  (tmp_path / 'tokenizer.json').write_text(json.dumps(spec))
  shutil.copy(llama_json / 'tokenizer_config.json', tmp_path)
  ours = tokenizers.load_tokenizer(tmp_path)
  assert ours.encode('hi', after='control') == ours.encode('hi', after='text')
  assert ours.encode('hi') == ours.encode(' hi', after='text')
  reference = library.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  ids = reference.encode('<s>hi', add_special_tokens=False).ids
  assert ids == [1, *ours.encode('hi', after='control')]


def test_tokenizers_pickle(tokenizer):
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert copy.encode('<s> hi') == tokenizer.encode('<s> hi')
  assert copy.adds_prefix_space == tokenizer.adds_prefix_space


def test_decode_skips_control_tokens_and_padding(tokenizer):
  ids = tokenizer.encode('good day')
  padding = tokenizer.vocab_size + 3
  padded = [tokenizer.bos_id, *ids, tokenizer.eos_id, padding]
  assert tokenizer.decode(padded) == 'good day'


def test_invalid_input_raises(tokenizer):
  with pytest.raises(ValueError, match="control token '<nope>'"):
    tokenizer.control_id('<nope>')
  with pytest.raises(ValueError, match='Unicode'):
    tokenizer.encode('\ud800')


def test_missing_files_raise(tmp_path):
  match = r'tokenizer\.json.*tokenizer\.model.* 0 \.gguf'
  with pytest.raises(FileNotFoundError, match=match):
    tokenizers.load_tokenizer(tmp_path)
  with pytest.raises(FileNotFoundError, match=r'tokenizer\.json: '):
    tokenizers.load_tokenizer(tmp_path / 'tokenizer.json')


@pytest.mark.parametrize(
  'name, content, match',
  [
    ('tokenizer.txt', '', r'tokenizer\.txt: .*\.model.*\.json.*\.gguf'),
    ('tokenizer.model', '', r'tokenizer\.model: .*sentencepiece'),
    ('tokenizer.model', 'junk', r'tokenizer\.model: .*sentencepiece'),
    ('tokenizer.json', '{', r'tokenizer\.json: .*tokenizer\.json'),
    ('tokenizer.json', '{}', r'tokenizer\.json: .*tokenizer\.json'),
    ('tokenizer.gguf', 'GGUF', r'tokenizer\.gguf: '),
  ],
)
def test_error_names_the_broken_file(tmp_path, name, content, match):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=match):
    tokenizers.load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
  'model, match',
  [
    ('bert', r"q\.gguf: tokenizer\.ggml\.model .*'bert'.*\['gpt2', 'llama'\]"),
    ('gpt2', r'q\.gguf: tokenizer\.ggml\.tokens .*missing'),
    ('llama', r'q\.gguf: tokenizer\.ggml\.tokens .*missing'),
  ],
)
def test_error_names_the_gguf_field(tmp_path, model, match):
  writer = gguf.GGUFWriter(tmp_path / 'q.gguf', 'llama')
  writer.add_tokenizer_model(model)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  with pytest.raises(ValueError, match=match):
    tokenizers.load_tokenizer(tmp_path / 'q.gguf')


def test_tokenizer_json_without_eos_raises(llama_json, tmp_path):
  shutil.copy(llama_json / 'tokenizer.json', tmp_path)
  with pytest.raises(
    ValueError, match=r'tokenizer_config\.json.*special_tokens_map\.json.*eos_token'
  ):
    tokenizers.load_tokenizer(tmp_path)
