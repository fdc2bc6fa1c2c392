# SPDX-License-Identifier: Apache-2.0
"""Tiny models with every adapter, whose audio decides what they recognise."""

import numpy as np
import pytest
from flax import nnx

from acl_jax import build
from acl_jax.hearing.hearing import Hearing
from acl_jax.models import adapters, attention_adapter, ctc, llama, whisper
from acl_jax.models.speech_llm import SpeechLLM
from tests import tiny_weights
from tests.tiny_world import load_config

RATE = 16_000
ENCODER = whisper.WhisperConfig(
  num_mel_bins=80,
  d_model=12,
  encoder_layers=1,
  encoder_attention_heads=2,
  encoder_ffn_dim=14,
  max_source_positions=150,  # 3 s
)
ADAPTERS = {
  'attention': lambda rngs: attention_adapter.AttentionAdapter(
    attention_adapter.AttentionAdapterConfig(
      d_model=8,
      decoder_layers=2,
      decoder_attention_heads=2,
      decoder_ffn_dim=10,
      max_target_positions=60,
      stack=6,
      encoder_size=12,
      start_length=3,
      llm_size=24,
      vocabulary_size=40,
    ),
    rngs=rngs,
  ),
  'ctc': lambda rngs: ctc.CTCAdapter(
    ctc.CTCAdapterConfig(
      stack=4,
      encoder_size=12,
      letter_hidden_size=14,
      letter_layers=1,
      hidden_size=10,
      num_layers=2,
      kernel_size=3,
      dropout=0.1,
      llm_size=24,
      vocabulary_size=40,
      spelling_size=3,
    ),
    rngs=rngs,
  ),
  'stride': lambda rngs: adapters.StrideAdapter(
    adapters.StrideAdapterConfig(5, 12, None, 24), rngs=rngs
  ),
}


def noise(seconds: float, seed: int = 0) -> np.ndarray:
  """Noise whose loudness changes and pauses."""
  rng = np.random.default_rng(seed)
  count = round(seconds * RATE)
  loudness = np.repeat(rng.choice([0.0, 0.02, 0.3], 1 + count // 2_400), 2_400)
  return (rng.normal(size=count) * loudness[:count]).astype(np.float32).clip(-1, 1)


@pytest.fixture(scope='session')
def text(tiny_world):
  config = load_config(tiny_world)
  return build.load_text_frontend(config.llama, config.template)


@pytest.fixture(scope='session')
def make_model(text):
  """Return a function from the kind of an adapter to a model."""

  def make(kind: str) -> SpeechLLM:
    llm = llama.LlamaConfig(
      vocab_size=text.tokenizer.vocab_size,
      hidden_size=24,
      intermediate_size=40,
      num_hidden_layers=1,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=6,
      rope_theta=1e4,
      rms_norm_eps=1e-5,
      tie_word_embeddings=False,
      max_position_embeddings=220,
    )

    def create():
      rngs = nnx.Rngs(0)
      encoder = whisper.Whisper(ENCODER, rngs=rngs)
      return SpeechLLM(encoder, ADAPTERS[kind](rngs), llama.Llama(llm, rngs=rngs))

    return tiny_weights.fill(create, scale=0.5, seed=3)

  return make


@pytest.fixture(scope='session', params=sorted(ADAPTERS))
def model(request, make_model) -> SpeechLLM:
  return make_model(request.param)


@pytest.fixture
def make_hearing(text):
  """Return a function from a model to its hearing, which remembers nothing."""

  def make(model: SpeechLLM, **options) -> Hearing:
    decode = text.tokenizer.decode if model.adapter.recognises else None
    return Hearing(model, text.tokenizer, decode, **{'cached_bytes': 0, **options})

  return make
