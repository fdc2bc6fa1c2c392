# SPDX-License-Identifier: Apache-2.0
"""No token is lost or doubled where windows are joined.

The model is one whose truth is known: it recognises tones.
"""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from acl_jax.hearing.hearing import Hearing
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig, Scores
from acl_jax.models.llama import Llama, LlamaConfig
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.models.tower import Tower
from tests.hearing.conftest import RATE

BINS = (15, 25, 35, 45)  # of the log-mel spectrogram, one for each tone
FREQUENCIES = (596, 968, 1_420, 2_087)  # Hz, in the middle of these bins
TONE, GAP = 2_560, 1_920  # samples, 0.16 s and 0.12 s
CONFIG = CTCAdapterConfig(
  stack=2,
  encoder_size=80,
  letter_hidden_size=0,
  letter_layers=0,
  hidden_size=3,
  num_layers=1,
  kernel_size=3,
  dropout=0.0,
  llm_size=6,
  vocabulary_size=len(BINS),
  spelling_size=3,
)


class LogMelEncoder(Tower):
  """Every second log-mel frame."""

  kind = 'log_mel'

  def __init__(self):
    self.config = types.SimpleNamespace(
      num_mel_bins=80,
      output_size=80,
      subsampling=2,
      max_frames=300,
      features='whisper',
      trailing_silence=0,
    )

  def encode_rows(self, log_mel, segment_ids, remat):
    del segment_ids, remat
    return log_mel[:, ::2]


class ToneAdapter(CTCAdapter):
  """Its vocabulary is the tones."""

  def scores(self, frames, frame_mask, table, key=None, candidates=None):
    del table, key, candidates
    loudness = frames[:, ::2, jnp.asarray(BINS)]
    logits = 20 * (loudness - 0.7)
    return Scores(
      jnp.pad(logits, ((0, 0), (0, 0), (1, 0))), frame_mask[:, ::2], None, None
    )


LLM = LlamaConfig(
  vocab_size=400,
  hidden_size=6,
  intermediate_size=7,
  num_hidden_layers=1,
  num_attention_heads=3,
  num_key_value_heads=1,
  head_dim=2,
  rope_theta=1e4,
  rms_norm_eps=1e-5,
  tie_word_embeddings=True,
  max_position_embeddings=9,
)


def play(tones, pauses):
  """Return the samples of tones, a gap and a pause after each, and their times."""
  parts, starts, total = [], [], 0
  time = np.arange(TONE) / RATE
  for tone, pause in zip(tones, pauses, strict=True):
    wave = 0.4 * np.sin(2 * np.pi * FREQUENCIES[tone] * time) * np.hanning(TONE) ** 0.2
    starts.append(total / RATE)
    parts += [wave, np.zeros(GAP + pause)]
    total += TONE + GAP + pause
  return np.concatenate(parts).astype(np.float32), starts


@pytest.fixture(scope='module')
def hearing(text) -> Hearing:
  adapter = ToneAdapter(CONFIG, rngs=nnx.Rngs(0))
  model = SpeechLLM(LogMelEncoder(), adapter, Llama(LLM, rngs=nnx.Rngs(1)))
  return Hearing(model, text.tokenizer, text.tokenizer.decode, cached_bytes=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.1, 0.3]))
def test_tones_are_heard_once_each(hearing, seed, share):
  rng = np.random.default_rng(seed)
  count = rng.integers(20, 70)  # up to 20 s and pauses; a window is 3 s
  tones = rng.integers(0, len(BINS), count)
  pauses = rng.integers(0, 40_000, count) * (rng.random(count) < share)
  samples, starts = play(tones, pauses)
  heard = hearing.hear(samples)
  assert [token.id for token in heard.tokens] == tones.tolist()
  spaces = np.abs(heard.embeddings - hearing._space).max(axis=1) == 0  # after silence
  assert (~spaces).sum() == count
  errors = np.asarray([token.start for token in heard.tokens]) - starts
  assert np.abs(errors).max() < 0.06
