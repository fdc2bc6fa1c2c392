# SPDX-License-Identifier: Apache-2.0
"""The exported feature extraction equals ours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.exporting.files import log_mel
from acl_jax.exporting.files.processing_audio_chat_llama import (
  _resample,
  _to_mono,
)
from data_pipeline.features import FEATURES, kaldi_filters, mel_filters
from tests.exporting.conftest import noise_clips


@pytest.mark.parametrize('name', FEATURES)
@given(samples=st.integers(400, 9_000), mels=st.sampled_from([16, 80, 128]))
def test_spectrograms_equal_ours(name, samples, mels):
  (clip,) = noise_clips(samples, seed=samples)
  expected = FEATURES[name].log_mel(clip, mels)
  actual = log_mel.log_mel(name, clip, mels)
  assert actual.dtype == np.float32
  if (
    name == 'kaldi'
  ):  # its floor is float32's epsilon: compare energies, not their logs
    actual, expected = np.exp(actual), np.exp(expected)
    return np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-8)
  np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize('mels, fft', [(80, 400), (128, 400), (80, 512)])
def test_filters_equal_ours(mels, fft):
  slaney = log_mel.slaney_filters(mels, fft)
  np.testing.assert_allclose(slaney, mel_filters(mels, fft), atol=1e-8)
  np.testing.assert_allclose(
    log_mel.kaldi_filters(mels), kaldi_filters(mels), atol=1e-6
  )


def test_too_short_audio_raises():
  with pytest.raises(ValueError, match='399.*400'):
    log_mel.log_mel('whisper', np.zeros(399, np.float32), 80)


@pytest.mark.parametrize('rate', [8_000, 44_100, 48_000])
def test_resampling_keeps_a_tone(rate):
  def tone(rate):
    return np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)

  resampled = _resample(tone(rate).astype(np.float32), rate)
  middle = slice(1_000, 7_000)
  np.testing.assert_allclose(resampled[middle], tone(16_000)[middle], atol=2e-3)


@given(channels=st.integers(1, 3), samples=st.integers(4, 50))
def test_to_mono(channels, samples):
  clip = np.random.default_rng(samples).normal(0, 0.2, (samples, channels))
  integers = np.round(clip * 2**15).astype(np.int16)
  mono = _to_mono(integers)
  np.testing.assert_allclose(mono, integers.mean(axis=1) / 2**15, atol=1e-6)
  transposed = integers.T if channels > 1 else integers[:, 0]
  np.testing.assert_array_equal(_to_mono(transposed), mono)
  assert mono.dtype == np.float32
