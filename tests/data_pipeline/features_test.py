# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
from transformers import ParakeetFeatureExtractor, WhisperFeatureExtractor

from data_pipeline.audio import read
from data_pipeline.features import (
  FEATURES,
  SAMPLE_RATE,
  Frontend,
  get_features,
  kaldi_log_mel,
  mel_filters,
  parakeet_log_mel,
  whisper_log_mel,
)

RECORDINGS = Path(__file__).parents[2] / 'data_pipeline/recordings/audio'


@pytest.fixture(scope='module')
def oracle():
  return WhisperFeatureExtractor(feature_size=80)


def extract(oracle, audio, **options):
  out = oracle(audio, sampling_rate=SAMPLE_RATE, return_tensors='np', **options)
  return out['input_features'][0].T


def examples():
  rng = np.random.default_rng(0)
  yield read(RECORDINGS / 'activated.ogg')
  yield read(RECORDINGS / 'conf-adminmenu.ogg')
  yield rng.normal(scale=0.1, size=12_345).astype(np.float32)
  yield np.sin(np.arange(9_600) / 20).astype(np.float32)


@pytest.mark.parametrize('number', range(4))
def test_whisper_with_30_seconds_equals_transformers(oracle, number):
  audio = list(examples())[number]
  padded = np.pad(audio, (0, 480_000 - len(audio)))
  ours = whisper_log_mel(padded)
  assert ours.shape == (3000, 80) and ours.dtype == np.float32
  np.testing.assert_allclose(ours, extract(oracle, audio), atol=1e-4)


@pytest.mark.parametrize('number', range(4))
def test_whisper_without_padding_equals_transformers(oracle, number):
  audio = list(examples())[number]
  ours = whisper_log_mel(audio)
  assert len(ours) == len(audio) // 160
  expected = extract(oracle, audio, padding='do_not_pad')
  np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_whisper_with_128_bins_equals_transformers():
  audio = next(examples())
  expected = extract(WhisperFeatureExtractor(feature_size=128), audio)
  padded = np.pad(audio, (0, 480_000 - len(audio)))
  np.testing.assert_allclose(whisper_log_mel(padded, 128), expected, atol=1e-4)


def test_filters_equal_transformers(oracle):
  np.testing.assert_allclose(mel_filters(80), oracle.mel_filters, atol=1e-7)


def test_silence_is_at_the_floor():
  log_mel = whisper_log_mel(np.zeros(1_600, np.float32))
  # The last bit of log10 depends on the processor.
  np.testing.assert_allclose(log_mel, -1.5, atol=1e-6)


def test_minimum_length_is_one_window():
  assert whisper_log_mel(np.ones(400, np.float32)).shape == (2, 80)
  with pytest.raises(ValueError, match=r'\b399\b.*\b400\b'):
    whisper_log_mel(np.ones(399, np.float32))


def test_parakeet_equals_transformers():
  extractor = ParakeetFeatureExtractor()
  for audio in examples():
    batch = extractor(audio, sampling_rate=16_000, return_tensors='np')
    expected = batch['input_features'][0][batch['attention_mask'][0].astype(bool)]
    ours = parakeet_log_mel(audio)
    assert len(ours) == FEATURES['parakeet'].num_frames(len(audio)) == len(expected)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize('bins', [80, 23])
def test_kaldi_equals_kaldi_native_fbank(bins):
  options = kaldi_native_fbank.FbankOptions()
  options.frame_opts.dither = 0
  options.mel_opts.num_bins = bins
  for audio in (*examples(), np.zeros(3_200, np.float32)):
    oracle = kaldi_native_fbank.OnlineFbank(options)
    oracle.accept_waveform(16_000, audio.tolist())
    oracle.input_finished()
    expected = [oracle.get_frame(i) for i in range(oracle.num_frames_ready)]
    ours = kaldi_log_mel(audio, bins)
    assert len(ours) == FEATURES['kaldi'].num_frames(len(audio)) == len(expected)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize('name', sorted(FEATURES))
@pytest.mark.parametrize('samples', [400, 559, 560, 719, 4_000])
def test_num_frames_matches_log_mel(name, samples):
  audio = np.random.default_rng(samples).normal(size=samples).astype(np.float32)
  log_mel = FEATURES[name].log_mel(audio, 40)
  assert log_mel.shape == (FEATURES[name].num_frames(samples), 40)
  assert log_mel.dtype == np.float32 and np.isfinite(log_mel).all()
  with pytest.raises(ValueError, match=r'\b399\b.*\b400\b'):
    FEATURES[name].log_mel(audio[:399], 40)


@pytest.mark.parametrize('name', sorted(FEATURES))
def test_silence_follows_the_audio(name):
  audio = np.random.default_rng(3).normal(size=1_111).astype(np.float32)
  frontend = Frontend(name, 40, trailing_silence=7)
  log_mel = frontend.log_mel(audio)
  padded = np.append(audio, np.zeros(7 * 160, np.float32))
  np.testing.assert_array_equal(log_mel, FEATURES[name].log_mel(padded, 40))
  assert len(log_mel) == frontend.num_frames(len(audio))
  assert len(log_mel) == Frontend(name, 40).num_frames(len(audio)) + 7
  with pytest.raises(ValueError, match=r'\b399\b.*\b400\b'):
    frontend.log_mel(audio[:399])


def test_unknown_name_is_rejected():
  with pytest.raises(ValueError, match="'mfcc'.*kaldi, parakeet, whisper"):
    get_features('mfcc')
