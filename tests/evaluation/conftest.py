# SPDX-License-Identifier: Apache-2.0
"""A toy speech LLM with confident predictions, and manifests to evaluate it on."""

import dataclasses
import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
from flax import nnx

import data_pipeline
from acl_jax import build
from acl_jax.config.experiment import TrainConfig, parse_train
from acl_jax.models import ctc, llama, whisper
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.model_proto import ModelProto
from acl_jax.text.sentencepieces import from_sentencepiece
from acl_jax.text.templates import llama2
from acl_jax.weights.adapter import save_adapter
from configs import smol
from data_pipeline import audio
from tests import tiny_weights

CORPUS = """What is the capital of France? The capital of France is Paris.
The quick brown fox jumps over the lazy dog while the band plays a good day song."""


@pytest.fixture(autouse=True, scope='session')
def font_cache() -> None:
  """Build matplotlib's cache of fonts, for which it runs fc-list once on a machine."""
  importlib.import_module('matplotlib.font_manager')


@pytest.fixture(scope='session')
def text() -> TextFrontend:
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS.splitlines()),
    model_writer=file,
    model_type='bpe',
    vocab_size=340,
    byte_fallback=True,
    normalization_rule_name='identity',
    minloglevel=2,
  )
  model = ModelProto.FromString(file.getvalue())
  return TextFrontend(from_sentencepiece(model), llama2)


@pytest.fixture(scope='session')
def model(text) -> SpeechLLM:
  encoder = whisper.WhisperConfig(
    num_mel_bins=80,
    d_model=12,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=20,
    max_source_positions=150,  # 3 s
  )
  adapter = ctc.CTCAdapterConfig(
    stack=2,
    encoder_size=12,
    letter_hidden_size=14,
    letter_layers=1,
    hidden_size=10,
    num_layers=2,
    kernel_size=3,
    dropout=0.1,
    llm_size=24,
    vocabulary_size=60,
    spelling_size=3,
  )
  llm = llama.LlamaConfig(
    vocab_size=text.tokenizer.vocab_size,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    max_position_embeddings=220,
  )

  def build():
    rngs = nnx.Rngs(0)
    return SpeechLLM(
      whisper.Whisper(encoder, rngs=rngs),
      ctc.CTCAdapter(adapter, rngs=rngs),
      llama.Llama(llm, rngs=rngs),
    )

  # Large weights, so that predictions are confident.
  return tiny_weights.fill(build, scale=0.3, seed=0)


@pytest.fixture
def toy_config(model, text, tmp_path, monkeypatch) -> TrainConfig:
  """A config that loads the toy model and tokenizer."""
  save_adapter(tmp_path / 'adapter.safetensors', model.adapter)
  monkeypatch.setattr(build, 'load_text_frontend', lambda llm, template: text)
  monkeypatch.setattr(build, 'load_model', lambda config, checkpoint: model)
  config = parse_train(smol.get_config())
  return dataclasses.replace(
    config,
    llama=dataclasses.replace(config.llama, path='toy'),
    encoder=dataclasses.replace(config.encoder, path='toy'),
    template='llama2',
    targets=dataclasses.replace(config.targets, max_new_tokens=7),
  )


@pytest.fixture
def manifest(tmp_path):
  """A manifest of five short utterances of noise."""
  rng = np.random.default_rng(0)
  lines = []
  transcripts = ('What is it?', 'the band', 'Paris', 'fox', 'a day')
  for index, transcript in enumerate(transcripts):
    waveform = rng.normal(size=4_000 + 3_000 * index) * 0.1
    soundfile.write(tmp_path / f'{index}.wav', waveform, 16_000)
    lines.append(
      {'audio_filepath': f'{index}.wav', 'text': transcript, 'id': f'u{index}'}
    )
  lines[2]['response'] = 'The lazy dog.'
  path = tmp_path / 'manifest.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


@pytest.fixture
def add_entry(manifest):
  """Append an entry to the manifest."""

  def add_entry(**entry):
    with manifest.open('a') as file:
      file.write(json.dumps({'audio_filepath': '0.wav', 'text': 'hi'} | entry) + '\n')

  return add_entry


@pytest.fixture
def activated_waveform() -> np.ndarray:
  """Real speech: a woman says 'Activated'."""
  folder = Path(data_pipeline.__file__).parent / 'recordings'
  return audio.read(folder / 'audio/activated.ogg')
