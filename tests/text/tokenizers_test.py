# SPDX-License-Identifier: Apache-2.0
import json
import pickle
import shutil

import gguf
import hypothesis
import pytest
import tokenizers as library
from hypothesis import strategies as st
from transformers import LlamaTokenizer

from acl_jax.text import tokenizers
from acl_jax.text.model_proto import ModelProto

TEXTS = [
  'What is the capital of France?',
  ' two  spaces, a\ttab and\n\na blank line ',
  "it's 3,14159 or 10½ or ٣٤",
  'naïve façade 漢字 🙂 \x00\x7f',
  '▁ is not a space',
]
CONTROL = ['<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|endoftext|>']
# SmolLM2's vocabulary lacks some of the 256 bytes: it cannot spell all of Unicode.
latin = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x24F))


@pytest.fixture(scope='session', params=['llama_model', 'llama_json', 'smollm2'])
def tokenizer(request):
  given = request.getfixturevalue(request.param)
  return given if request.param == 'smollm2' else tokenizers.load_tokenizer(given)


@hypothesis.given(text=st.lists(st.sampled_from(CONTROL) | st.text()).map(''.join))
def test_text_never_becomes_a_control_token(tokenizer, text):
  for after in ('nothing', 'control', 'text'):
    ids = tokenizer.encode(text, after=after)
    assert not set(ids) & set(tokenizer.controls.values())


@hypothesis.given(text=st.lists(st.sampled_from(CONTROL) | latin).map(''.join))
def test_decode_inverts_encode(tokenizer, text):
  ids = [*tokenizer.encode('a'), *tokenizer.encode(text, after='text')]
  assert tokenizer.decode(ids) == 'a' + text


def test_pieces_keep_the_space_before_them(tokenizer):
  text = 'What is the capital of France?'
  pieces = [tokenizer.piece(id) for id in tokenizer.encode(text)]
  assert ''.join(pieces).lstrip() == text
  assert len([piece for piece in pieces if piece.startswith(' ')]) >= 5


@pytest.mark.parametrize('text', TEXTS)
def test_sentencepiece_equals_transformers(llama_model, text):
  oracle = LlamaTokenizer.from_pretrained(llama_model.parent, legacy=True)
  ours = tokenizers.load_tokenizer(llama_model)
  if not text.startswith(
    (' ', '▁')
  ):  # there Transformers adds none, sentencepiece does
    assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2,))
  assert ours.vocab_size == len(oracle)


@pytest.mark.parametrize('text', TEXTS)
def test_tokenizer_json_equals_the_library(llama_json, text):
  oracle = library.Tokenizer.from_file(str(llama_json / 'tokenizer.json'))
  ours = tokenizers.load_tokenizer(llama_json)
  ids = oracle.encode(text, add_special_tokens=False).ids
  assert ours.encode(text) == ids
  assert ours.decode([1, *ids, 2]) == oracle.decode(ids)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2, 7))


@pytest.mark.parametrize('text', TEXTS)
def test_gguf_equals_transformers(smollm2, smollm2_oracle, text):
  ours = smollm2
  assert ours.encode(text) == smollm2_oracle.encode(text, add_special_tokens=False)
  assert (ours.bos_id, ours.eos_id, ours.stop_ids) == (1, 2, (2,))
  assert ours.vocab_size == 49152
  assert ours.control('<|im_end|>') == 2


def test_gguf_of_sentencepiece_equals_the_model_it_was_made_of(llama_model, tmp_path):
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
  assert ours.controls == expected.controls
  assert (ours.bos_id, ours.stop_ids) == (1, (2,))
  for text in TEXTS:
    for after in ('nothing', 'control', 'text'):
      ids = expected.encode(text, after=after)
      assert ours.encode(text, after=after) == ids
      assert ours.decode(ids) == expected.decode(ids)


def test_space_before_the_first_word(llama_model, llama_json, smollm2):
  for path in (llama_model, llama_json):
    ours = tokenizers.load_tokenizer(path)
    assert ours.opens_with_space
    assert ours.encode('hi') == ours.encode('hi', after='control')
    assert ours.encode('hi') == ours.encode(' hi', after='text')
  assert not smollm2.opens_with_space


def test_metaspace_first_opens_only_the_whole_text(llama_json, tmp_path):
  spec = json.loads((llama_json / 'tokenizer.json').read_text())
  spec['normalizer'] = None
  metaspace = {'type': 'Metaspace', 'replacement': '▁', 'split': False}
  spec['pre_tokenizer'] = metaspace | {'prepend_scheme': 'first'}
  (tmp_path / 'tokenizer.json').write_text(json.dumps(spec))
  shutil.copy(llama_json / 'tokenizer_config.json', tmp_path)
  ours = tokenizers.load_tokenizer(tmp_path)
  assert ours.encode('hi', after='control') == ours.encode('hi', after='text')
  assert ours.encode('hi') == ours.encode(' hi', after='text')
  oracle = library.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  ids = oracle.encode('<s>hi', add_special_tokens=False).ids
  assert ids == [1, *ours.encode('hi', after='control')]


def test_survives_the_way_to_a_loader_process(tokenizer):
  twin = pickle.loads(pickle.dumps(tokenizer))
  assert twin.encode('<s> hi') == tokenizer.encode('<s> hi')
  assert twin.opens_with_space == tokenizer.opens_with_space


def test_decode_leaves_out_control_tokens_and_padding(tokenizer):
  ids = tokenizer.encode('good day')
  padding = tokenizer.vocab_size + 3
  assert (
    tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id, padding]) == 'good day'
  )


def test_user_errors_are_one_sentence(tokenizer, tmp_path):
  with pytest.raises(ValueError, match="no control token '<nope>'"):
    tokenizer.control('<nope>')
  with pytest.raises(ValueError, match='not valid Unicode'):
    tokenizer.encode('\ud800')
  with pytest.raises(FileNotFoundError, match='no tokenizer.json'):
    tokenizers.load_tokenizer(tmp_path)
  with pytest.raises(FileNotFoundError, match='no such tokenizer'):
    tokenizers.load_tokenizer(tmp_path / 'tokenizer.json')


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('tokenizer.txt', '', 'a tokenizer is a .model, .json or .gguf file'),
    ('tokenizer.model', '', 'not a sentencepiece model'),
    ('tokenizer.model', 'junk', 'not a sentencepiece model'),
    ('tokenizer.json', '{', 'not a tokenizer.json'),
    ('tokenizer.json', '{}', 'not a tokenizer.json'),
    ('tokenizer.gguf', 'GGUF', 'tokenizer.gguf: '),
  ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=message):
    tokenizers.load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
  'model, message',
  [
    ('bert', r"q\.gguf: tokenizer.ggml.model is 'bert'; known: \['gpt2', 'llama'\]"),
    ('gpt2', r'q\.gguf: tokenizer.ggml.pre is missing'),
    ('llama', r'q\.gguf: tokenizer.ggml.tokens is missing'),
  ],
)
def test_what_a_gguf_lacks_is_named(tmp_path, model, message):
  writer = gguf.GGUFWriter(tmp_path / 'q.gguf', 'llama')
  writer.add_tokenizer_model(model)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  with pytest.raises(ValueError, match=message):
    tokenizers.load_tokenizer(tmp_path / 'q.gguf')


def test_tokenizer_json_without_eos_is_refused(llama_json, tmp_path):
  shutil.copy(llama_json / 'tokenizer.json', tmp_path)
  with pytest.raises(ValueError, match='names an eos_token'):
    tokenizers.load_tokenizer(tmp_path)
