# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from data_pipeline import audio
from data_pipeline.features import SAMPLE_RATE, mel_filters, whisper_log_mel

RECORDINGS = Path(__file__).parents[2] / 'data_pipeline/recordings/audio'


@pytest.fixture(scope='module')
def oracle():
  return WhisperFeatureExtractor(feature_size=80)


def extract(oracle, sound, **options):
  out = oracle(sound, sampling_rate=SAMPLE_RATE, return_tensors='np', **options)
  return out['input_features'][0].T


def sounds():
  rng = np.random.default_rng(0)
  yield audio.read(RECORDINGS / 'activated.ogg')
  yield audio.read(RECORDINGS / 'conf-adminmenu.ogg')
  yield rng.normal(scale=0.1, size=12_345).astype(np.float32)
  yield np.sin(np.arange(9_600) / 20).astype(np.float32)


@pytest.mark.parametrize('number', range(4))
def test_padded_to_30_seconds_equals_transformers(oracle, number):
  sound = list(sounds())[number]
  padded = np.pad(sound, (0, 480_000 - len(sound)))
  ours = whisper_log_mel(padded)
  assert ours.shape == (3000, 80) and ours.dtype == np.float32
  np.testing.assert_allclose(ours, extract(oracle, sound), atol=1e-4)


@pytest.mark.parametrize('number', range(4))
def test_true_length_equals_transformers(oracle, number):
  sound = list(sounds())[number]
  ours = whisper_log_mel(sound)
  assert len(ours) == len(sound) // 160
  expected = extract(oracle, sound, padding='do_not_pad')
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_more_mel_bins():
  sound = next(sounds())
  expected = extract(WhisperFeatureExtractor(feature_size=128), sound)
  padded = np.pad(sound, (0, 480_000 - len(sound)))
  np.testing.assert_allclose(whisper_log_mel(padded, 128), expected, atol=1e-4)


def test_filters_equal_transformers(oracle):
  np.testing.assert_allclose(mel_filters(80), oracle.mel_filters, atol=1e-7)


def test_silence_is_the_floor():
  np.testing.assert_array_equal(whisper_log_mel(np.zeros(1_600, np.float32)), -1.5)


def test_the_shortest_audio_is_one_window():
  assert whisper_log_mel(np.ones(400, np.float32)).shape == (2, 80)
  with pytest.raises(ValueError, match='audio has 399 samples; one frame needs 400'):
    whisper_log_mel(np.ones(399, np.float32))
