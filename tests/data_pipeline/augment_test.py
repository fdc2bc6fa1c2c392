# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.augment import (
  Augmentation,
  Masking,
  augment,
  augmented_length,
  coloured_noise,
  mask_spectrogram,
)
from data_pipeline.features import SAMPLE_RATE

NO_CHANGE = Augmentation(0.0, 0.0, (5.0, 30.0), 0.0)
STRONG = Augmentation(0.1, 0.5, (5.0, 30.0), 0.25)


def tone(pitch=440.0, seconds=0.5, loudness=0.3):
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def pitch_of(audio):
  spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
  return np.argmax(spectrum) * SAMPLE_RATE / (1 << 16)


def test_result_depends_on_audio_and_rng_only():
  for seed in range(8):
    first, second = (augment(tone(), STRONG, np.random.default_rng(seed)) for _ in '12')
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
  other = augment(tone(), STRONG, np.random.default_rng(8))
  assert len(other) != len(first) or (other != first).any()


def test_input_is_not_modified():
  audio = tone()
  augment(audio, STRONG, np.random.default_rng(0))
  np.testing.assert_array_equal(audio, tone())


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_tempo_and_pitch_change_together(seed, speed):
  settings = dataclasses.replace(NO_CHANGE, speed=speed)
  changed = augment(tone(), settings, np.random.default_rng(seed))
  factor = len(tone()) / len(changed)
  assert 1 / (1 + speed) - 1e-3 <= 1 / factor <= 1 / (1 - speed) + 1e-3
  assert pitch_of(changed) == pytest.approx(440 * factor, rel=0.01)


@given(st.integers(0, 1000), st.integers(400, 9_000))
def test_augmented_length_matches_augment(seed, samples):
  audio = tone()[:samples]
  changed = augment(audio, STRONG, np.random.default_rng(seed))
  length = augmented_length(len(audio), STRONG, np.random.default_rng(seed))
  assert len(changed) == length


def test_zero_settings_change_only_the_loudness():
  changed = augment(tone(), NO_CHANGE, np.random.default_rng(0))
  gain = np.abs(changed).max() / np.abs(tone()).max()
  assert 0.5 <= gain <= 1.2
  np.testing.assert_allclose(changed, tone() * gain, atol=1e-6)


def test_telephone_removes_frequencies_above_4_khz():
  settings = dataclasses.replace(NO_CHANGE, telephone_share=1.0)
  for pitch, expected in ((1_000, 1.0), (6_000, 0.0)):
    plain = augment(tone(pitch), NO_CHANGE, np.random.default_rng(0))
    narrow = augment(tone(pitch), settings, np.random.default_rng(0))
    remaining_power = np.square(narrow).sum() / np.square(plain).sum()
    assert len(narrow) == len(plain)
    assert remaining_power == pytest.approx(expected, abs=0.02)


@given(st.integers(0, 1000), st.floats(-5, 40), st.integers(400, 9_001))
def test_noise_has_the_requested_snr(seed, snr, samples):
  audio = tone()[:samples]
  noise = coloured_noise(audio, snr, np.random.default_rng(seed))
  assert noise.shape == audio.shape and noise.dtype == np.float32
  ratio = np.mean(audio.astype(float) ** 2) / np.mean(noise.astype(float) ** 2)
  assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.01)


def test_silence_stays_silent():
  settings = dataclasses.replace(STRONG, noise_share=1.0)
  changed = augment(np.zeros(4_000, np.float32), settings, np.random.default_rng(0))
  assert not changed.any()


def test_loud_audio_is_clipped():
  settings = dataclasses.replace(NO_CHANGE, noise_share=1.0, noise_snr=(0.0, 1.0))
  for seed in range(5):
    changed = augment(tone(loudness=1.0), settings, np.random.default_rng(seed))
    assert np.abs(changed).max() <= 1.0


def test_explicit_length():
  changed = augment(tone(), STRONG, np.random.default_rng(0), length=7_777)
  assert len(changed) == 7_777


@given(st.integers(0, 1000))
def test_masks_are_frequency_bands_and_time_spans(seed):
  settings = Masking(mel_masks=2, mel_width=4, time_masks=1, time_share=0.2)
  log_mel = np.random.default_rng(seed).normal(size=(30, 17)).astype(np.float32)
  masked = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
  is_masked = masked == log_mel.mean()
  np.testing.assert_array_equal(masked[~is_masked], log_mel[~is_masked])
  assert is_masked.all(axis=0).sum() <= 8 and is_masked.all(axis=1).sum() <= 6
  other_frames = is_masked[~is_masked.all(axis=1)]  # masked by whole bands only
  assert (other_frames.all(axis=0) == other_frames.any(axis=0)).all()
  second = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
  np.testing.assert_array_equal(masked, second)


def test_masks_cover_a_typical_fraction():
  settings = Masking(mel_masks=1, mel_width=17, time_masks=1, time_share=1.0)
  log_mel = np.random.default_rng(0).normal(size=(30, 17)).astype(np.float32)
  fractions = []
  for seed in range(40):
    masked = mask_spectrogram(log_mel, settings, np.random.default_rng(seed))
    fractions.append(np.mean(masked != log_mel))
  assert 0.5 < np.mean(fractions) < 0.9
