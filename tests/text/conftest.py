# SPDX-License-Identifier: Apache-2.0
"""Tiny tokenizers like Llama-2's, trained here, and the real one of SmolLM2."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer, LlamaTokenizer
from transformers.utils import sentencepiece_model_pb2_new

from acl_jax import assets
from acl_jax.text.tokenizer import Tokenizer
from acl_jax.text.tokenizers import load_tokenizer
from tests.tiny_world import write_tokenizer

# sentencepiece's own module, which Transformers prefers, needs a newer protobuf than
# Apache Beam accepts.
sys.modules['sentencepiece.sentencepiece_model_pb2'] = sentencepiece_model_pb2_new

SMOLLM2 = pytest.param('smollm2', marks=pytest.mark.full)  # the name of a fixture
CORPUS = """What is the capital of France? The capital of France is Paris.
You are a helpful, respectful and honest assistant. Always answer as well as you can.
The quick brown fox jumps over the lazy dog while the band plays a good day song."""


@pytest.fixture(scope='session')
def llama_model(tmp_path_factory) -> Path:
  """A `tokenizer.model` trained with Llama-2's settings."""
  return write_llama_model(tmp_path_factory.mktemp('llama_model'))


def write_llama_model(folder: Path) -> Path:
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
  path = folder / 'tokenizer.model'
  path.write_bytes(model.getvalue())
  return path


@pytest.fixture(scope='session')
def llama_json(llama_model, tmp_path_factory) -> Path:
  """The same as a `tokenizer.json`, with the normalizer of Llama-2's release."""
  return write_llama_json(tmp_path_factory.mktemp('llama_json'), llama_model)


def write_llama_json(folder: Path, llama_model: Path) -> Path:
  tokenizer = LlamaTokenizer.from_pretrained(llama_model.parent)._tokenizer
  spec = json.loads(tokenizer.to_str())
  spec['pre_tokenizer'] = None
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
def tiny_chatml(tmp_path_factory) -> Tokenizer:
  """A tiny tokenizer like SmolLM2's."""
  folder = tmp_path_factory.mktemp('tiny_chatml') / 'llama'
  write_tokenizer(folder)
  return load_tokenizer(folder)


@pytest.fixture(scope='session', params=['tiny_chatml', SMOLLM2])
def chatml_tokenizer(request) -> Tokenizer:
  return request.getfixturevalue(request.param)


@pytest.fixture(scope='session')
def smollm2_reference(smollm2_path):
  """Transformers' tokenizer of the same file, with its chat template."""
  memmap = np.memmap
  with pytest.MonkeyPatch.context() as monkeypatch:
    # It slices the file a million times, and slices of a plain array are much faster.
    monkeypatch.setattr(
      np, 'memmap', lambda *args, **kwargs: np.asarray(memmap(*args, **kwargs))
    )
    reference = AutoTokenizer.from_pretrained(
      smollm2_path.parent, gguf_file=smollm2_path.name
    )
  # Transformers' GGUF reader omits the step that splits digits, which the model's own
  # tokenizer.json has.
  digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
  steps = [digits, reference._tokenizer.pre_tokenizer]
  reference._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(steps)
  return reference
