# SPDX-License-Identifier: Apache-2.0
"""Tiny tokenizers of Llama-2's kind, trained on the spot, and SmolLM2's real one."""

import io
import json
import sys
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer, LlamaTokenizer
from transformers.utils import sentencepiece_model_pb2_new

from acl_jax import assets
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.text.tokenizers import load_tokenizer

# Transformers would take sentencepiece's own, which wants a newer protobuf than Beam's.
sys.modules['sentencepiece.sentencepiece_model_pb2'] = sentencepiece_model_pb2_new

CORPUS = """What is the capital of France? The capital of France is Paris.
You are a helpful, respectful and honest assistant. Always answer as well as you can.
The quick brown fox jumps over the lazy dog while the band plays a good day song."""


@pytest.fixture(scope='session')
def llama_model(tmp_path_factory) -> Path:
  """A `tokenizer.model` with Llama-2's settings."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS.splitlines()),
    model_writer=model,
    model_type='bpe',
    vocab_size=370,
    byte_fallback=True,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    split_digits=True,
    minloglevel=2,
  )
  path = tmp_path_factory.mktemp('llama_model') / 'tokenizer.model'
  path.write_bytes(model.getvalue())
  return path


@pytest.fixture(scope='session')
def llama_json(llama_model, tmp_path_factory) -> Path:
  """The same as a Hugging Face folder, with the normalizer of Llama-2's release."""
  tokenizer = LlamaTokenizer.from_pretrained(llama_model.parent)._tokenizer
  spec = json.loads(tokenizer.to_str())
  spec['pre_tokenizer'] = None
  folder = tmp_path_factory.mktemp('llama_json')
  prepend = {'type': 'Prepend', 'prepend': '▁'}
  replace = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'}
  spec['normalizer'] = {'type': 'Sequence', 'normalizers': [prepend, replace]}
  tokenizers.Tokenizer.from_str(json.dumps(spec)).save(str(folder / 'tokenizer.json'))
  names = {'bos_token': '<s>', 'eos_token': {'content': '</s>'}, 'unk_token': '<unk>'}
  (folder / 'tokenizer_config.json').write_text(json.dumps(names))
  (folder / 'generation_config.json').write_text('{"eos_token_id": [2, 7]}')
  return folder


@pytest.fixture(scope='session')
def smollm2_path() -> Path:
  return assets.resolve('asset:smollm2-135m-instruct')


@pytest.fixture(scope='session')
def smollm2(smollm2_path) -> Tokenizer:
  return load_tokenizer(smollm2_path)


@pytest.fixture(scope='session')
def smollm2_oracle(smollm2_path):
  """Transformers' tokenizer from the same file, chat template included."""
  oracle = AutoTokenizer.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name
  )
  # Its GGUF reader drops the half of the splitter that takes digits one by one, which
  # the model's own tokenizer.json has.
  digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
  splitter = [digits, oracle._tokenizer.pre_tokenizer]
  oracle._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splitter)
  return oracle
