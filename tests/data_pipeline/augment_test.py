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
  mask,
  noise,
)
from data_pipeline.features import SAMPLE_RATE

NOTHING = Augmentation(0.0, 0.0, (5.0, 30.0), 0.0)
MUCH = Augmentation(0.1, 0.5, (5.0, 30.0), 0.25)


def tone(pitch=440.0, seconds=0.5, loudness=0.3):
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def pitch_of(sound):
  spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 16))
  return np.argmax(spectrum) * SAMPLE_RATE / (1 << 16)


def test_a_function_of_the_recording_and_the_random_state():
  for seed in range(8):
    first, again = (augment(tone(), MUCH, np.random.default_rng(seed)) for _ in '12')
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
  other = augment(tone(), MUCH, np.random.default_rng(8))
  assert len(other) != len(first) or (other != first).any()


def test_the_recording_itself_is_left_alone():
  sound = tone()
  augment(sound, MUCH, np.random.default_rng(0))
  np.testing.assert_array_equal(sound, tone())


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_tempo_and_pitch_change_together(seed, speed):
  how = dataclasses.replace(NOTHING, speed=speed)
  sound = augment(tone(), how, np.random.default_rng(seed))
  changed = len(tone()) / len(sound)
  assert 1 / (1 + speed) - 1e-3 <= 1 / changed <= 1 / (1 - speed) + 1e-3
  assert pitch_of(sound) == pytest.approx(440 * changed, rel=0.01)


@given(st.integers(0, 1000), st.integers(400, 9_000))
def test_the_length_is_known_beforehand(seed, samples):
  sound = augment(tone()[:samples], MUCH, np.random.default_rng(seed))
  known = augmented_length(len(tone()[:samples]), MUCH, np.random.default_rng(seed))
  assert len(sound) == known


def test_without_changes_only_the_loudness_differs():
  sound = augment(tone(), NOTHING, np.random.default_rng(0))
  loudness = np.abs(sound).max() / np.abs(tone()).max()
  assert 0.5 <= loudness <= 1.2
  np.testing.assert_allclose(sound, tone() * loudness, atol=1e-6)


def test_a_telephone_passes_4_khz():
  how = dataclasses.replace(NOTHING, telephone_share=1.0)
  for pitch, share in ((1_000, 1.0), (6_000, 0.0)):
    plain = augment(tone(pitch), NOTHING, np.random.default_rng(0))
    narrow = augment(tone(pitch), how, np.random.default_rng(0))
    kept = np.square(narrow).sum() / np.square(plain).sum()
    assert len(narrow) == len(plain)
    assert kept == pytest.approx(share, abs=0.02)


@given(st.integers(0, 1000), st.floats(-5, 40), st.integers(400, 9_001))
def test_noise_is_as_loud_as_asked(seed, snr, samples):
  sound = tone()[:samples]
  added = noise(sound, snr, np.random.default_rng(seed))
  assert added.shape == sound.shape and added.dtype == np.float32
  ratio = np.mean(sound.astype(float) ** 2) / np.mean(added.astype(float) ** 2)
  assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.01)


def test_silence_stays_silent():
  how = dataclasses.replace(MUCH, noise_share=1.0)
  sound = augment(np.zeros(4_000, np.float32), how, np.random.default_rng(0))
  assert not sound.any()


def test_loud_recordings_are_clipped_to_the_range():
  how = dataclasses.replace(NOTHING, noise_share=1.0, noise_snr=(0.0, 1.0))
  for seed in range(5):
    sound = augment(tone(loudness=1.0), how, np.random.default_rng(seed))
    assert np.abs(sound).max() <= 1.0


def test_a_length_may_be_given():
  sound = augment(tone(), MUCH, np.random.default_rng(0), length=7_777)
  assert len(sound) == 7_777


@given(st.integers(0, 1000))
def test_masks_hide_bands_and_stretches(seed):
  how = Masking(mel_masks=2, mel_width=4, time_masks=1, time_share=0.2)
  log_mel = np.random.default_rng(seed).normal(size=(30, 17)).astype(np.float32)
  masked = mask(log_mel, how, np.random.default_rng(seed))
  hidden = masked == log_mel.mean()
  np.testing.assert_array_equal(masked[~hidden], log_mel[~hidden])
  assert hidden.all(axis=0).sum() <= 8 and hidden.all(axis=1).sum() <= 6
  rest = hidden[~hidden.all(axis=1)]  # what is hidden is a whole band or stretch
  assert (rest.all(axis=0) == rest.any(axis=0)).all()
  again = mask(log_mel, how, np.random.default_rng(seed))
  np.testing.assert_array_equal(masked, again)


def test_masks_hide_something():
  how = Masking(mel_masks=1, mel_width=17, time_masks=1, time_share=1.0)
  log_mel = np.random.default_rng(0).normal(size=(30, 17)).astype(np.float32)
  shares = [
    np.mean(mask(log_mel, how, np.random.default_rng(i)) != log_mel) for i in range(40)
  ]
  assert 0.5 < np.mean(shares) < 0.9
