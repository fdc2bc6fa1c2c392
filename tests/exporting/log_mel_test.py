# SPDX-License-Identifier: Apache-2.0
"""The exported front end makes the numbers of ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.exporting.files import log_mel
from acl_jax.exporting.files.processing_audio_chat_llama import _mono, _resample
from data_pipeline.features import FEATURES, kaldi_filters, mel_filters
from tests.exporting.conftest import sounds


@pytest.mark.parametrize('name', FEATURES)
@given(samples=st.integers(400, 9_000), mels=st.sampled_from([16, 80]))
def test_a_spectrogram_is_ours(name, samples, mels):
  (sound,) = sounds(samples, seed=samples)
  ours = FEATURES[name].log_mel(sound, mels)
  theirs = log_mel.log_mel(name, sound, mels)
  assert theirs.dtype == np.float32
  if name == 'kaldi':  # which has no floor to speak of: float32's is where silence is
    theirs, ours = np.exp(theirs), np.exp(ours)
    return np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-8)
  np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize('mels, fft', [(80, 400), (128, 400), (80, 512)])
def test_filters_are_ours(mels, fft):
  theirs = log_mel.slaney_filters(mels, fft)
  np.testing.assert_allclose(theirs, mel_filters(mels, fft), atol=1e-8)
  np.testing.assert_allclose(
    log_mel.kaldi_filters(mels), kaldi_filters(mels), atol=1e-6
  )


def test_a_moment_is_refused():
  with pytest.raises(ValueError, match='399 samples'):
    log_mel.log_mel('whisper', np.zeros(399, np.float32), 80)


@pytest.mark.parametrize('rate', [8_000, 44_100, 48_000])
def test_another_rate_is_the_same_tone(rate):
  tone = lambda r: np.sin(2 * np.pi * 440 * np.arange(r // 2) / r)  # noqa: E731
  resampled = _resample(tone(rate).astype(np.float32), rate)
  middle = slice(1_000, 7_000)
  np.testing.assert_allclose(resampled[middle], tone(16_000)[middle], atol=2e-3)


@given(channels=st.integers(1, 3), samples=st.integers(4, 50))
def test_integers_and_channels_become_floats_of_one(channels, samples):
  sound = np.random.default_rng(samples).normal(0, 0.2, (samples, channels))
  whole = np.round(sound * 2**15).astype(np.int16)
  mono = _mono(whole)
  np.testing.assert_allclose(mono, whole.mean(axis=1) / 2**15, atol=1e-6)
  np.testing.assert_array_equal(_mono(whole.T if channels > 1 else whole[:, 0]), mono)
  assert mono.dtype == np.float32
