# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
from transformers import ParakeetFeatureExtractor, WhisperFeatureExtractor

from data_pipeline import audio
from data_pipeline.features import (
  FEATURES,
  SAMPLE_RATE,
  features,
  kaldi_log_mel,
  mel_filters,
  parakeet_log_mel,
  whisper_log_mel,
)

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
  log_mel = whisper_log_mel(np.zeros(1_600, np.float32))
  # A processor's log10 may be off by the last bit.
  np.testing.assert_allclose(log_mel, -1.5, atol=1e-6)


def test_the_shortest_audio_is_one_window():
  assert whisper_log_mel(np.ones(400, np.float32)).shape == (2, 80)
  with pytest.raises(ValueError, match='audio has 399 samples; one frame needs 400'):
    whisper_log_mel(np.ones(399, np.float32))


def test_parakeet_equals_transformers():
  extractor = ParakeetFeatureExtractor()
  for sound in sounds():
    made = extractor(sound, sampling_rate=16_000, return_tensors='np')
    expected = made['input_features'][0][made['attention_mask'][0].astype(bool)]
    ours = parakeet_log_mel(sound)
    assert len(ours) == FEATURES['parakeet'].count(len(sound)) == len(expected)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize('bins', [80, 23])
def test_kaldi_equals_kaldi(bins):
  options = kaldi_native_fbank.FbankOptions()
  options.frame_opts.dither = 0
  options.mel_opts.num_bins = bins
  for sound in (*sounds(), np.zeros(3_200, np.float32)):
    oracle = kaldi_native_fbank.OnlineFbank(options)
    oracle.accept_waveform(16_000, sound.tolist())
    oracle.input_finished()
    expected = [oracle.get_frame(i) for i in range(oracle.num_frames_ready)]
    ours = kaldi_log_mel(sound, bins)
    assert len(ours) == FEATURES['kaldi'].count(len(sound)) == len(expected)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize('name', sorted(FEATURES))
@pytest.mark.parametrize('samples', [400, 559, 560, 719, 4_000])
def test_frames_are_counted_beforehand(name, samples):
  sound = np.random.default_rng(samples).normal(size=samples).astype(np.float32)
  made = FEATURES[name].log_mel(sound, 40)
  assert made.shape == (FEATURES[name].count(samples), 40)
  assert made.dtype == np.float32 and np.isfinite(made).all()
  with pytest.raises(ValueError, match='audio has 399 samples; one frame needs 400'):
    FEATURES[name].log_mel(sound[:399], 40)


def test_unknown_features_are_named():
  with pytest.raises(ValueError, match="'mfcc'; known: kaldi, parakeet, whisper"):
    features('mfcc')
