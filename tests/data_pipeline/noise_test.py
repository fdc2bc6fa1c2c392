# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.features import SAMPLE_RATE
from data_pipeline.noise import (
  add_babble,
  babble,
  coloured_noise,
  loop,
  music,
  scale_noise,
)


def tone(pitch=440.0, seconds=0.5, loudness=0.3):
  time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
  return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def decibels(audio, noise):
  ratio = np.mean(audio.astype(float) ** 2) / np.mean(noise.astype(float) ** 2)
  return 10 * np.log10(ratio)


@given(st.integers(0, 1000), st.floats(-5, 40), st.integers(400, 9_001))
def test_noise_has_the_requested_snr(seed, snr, samples):
  audio = tone()[:samples]
  noise = coloured_noise(audio, snr, np.random.default_rng(seed))
  assert noise.shape == audio.shape and noise.dtype == np.float32
  ratio = np.mean(audio.astype(float) ** 2) / np.mean(noise.astype(float) ** 2)
  assert 10 * np.log10(ratio) == pytest.approx(snr, abs=0.01)


@given(st.integers(0, 1000), st.floats(0, 40), st.integers(400, 9_001))
def test_babble_has_the_requested_snr(seed, snr, samples):
  audio = tone(loudness=0.02)[:samples]  # quiet, so that the sum stays below 1
  others = [tone(1_000, 0.3, 0.9), tone(2_000, 0.9, 0.1)]
  mixed, again = (
    add_babble(audio, others, snr, np.random.default_rng(seed)) for _ in '12'
  )
  np.testing.assert_array_equal(mixed, again)
  assert mixed.shape == audio.shape and mixed.dtype == np.float32
  assert decibels(audio, mixed - audio) == pytest.approx(snr, abs=0.1)


@given(st.integers(0, 1000))
def test_a_loud_sum_becomes_quieter_as_a_whole(seed):
  audio, others = tone(loudness=0.95), [tone(900), tone(1_300, 0.2)]
  mixed = add_babble(audio, others, 3.0, np.random.default_rng(seed))
  noise = scale_noise(
    audio, babble(len(audio), others, np.random.default_rng(seed)), 3.0
  )
  assert np.abs(mixed).max() == pytest.approx(1, abs=1e-6)
  gain = np.dot(mixed, audio + noise) / np.dot(audio + noise, audio + noise)
  np.testing.assert_allclose(mixed, gain * (audio + noise), atol=1e-6)


def test_talkers_of_a_babble_are_equally_loud():
  quiet, loud = tone(500, 1, 0.01), tone(3_000, 1, 0.9)
  spectrum = np.abs(
    np.fft.rfft(babble(16_000, [quiet, loud], np.random.default_rng(0)))
  )
  assert spectrum[500] == pytest.approx(spectrum[3_000], rel=0.01)


def test_without_others_or_with_silent_ones_nothing_is_added():
  silence = np.zeros(70, np.float32)
  for others in ([], [silence]):
    mixed = add_babble(tone(), others, 3.0, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed, tone())


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 8))
def test_loop_repeats_the_audio(size, length, start):
  start %= size
  audio = np.arange(size, dtype=np.float32)
  expected = [(start + i) % size for i in range(length)]
  assert loop(audio, length, start).tolist() == expected


@given(st.integers(0, 1000), st.integers(1, 50_000))
def test_music_is_finite_and_deterministic(seed, length):
  first, second = (music(length, np.random.default_rng(seed)) for _ in '12')
  np.testing.assert_array_equal(first, second)
  assert first.shape == (length,) and first.dtype == np.float32
  assert np.isfinite(first).all()


def test_music_is_tonal_and_has_a_beat():
  """Its spectrum has peaks, unlike noise, and its loudness a period of a beat."""
  for seed in range(5):
    tune = music(4 * SAMPLE_RATE, np.random.default_rng(seed))
    power = np.abs(np.fft.rfft(tune)) ** 2
    strongest = np.sort(power)[-len(power) // 100 :].sum() / power.sum()
    assert strongest > 0.3
    loudness = np.abs(tune).reshape(-1, 160).mean(axis=1)
    loudness = loudness - loudness.mean()
    echo = np.correlate(loudness, loudness, 'full')[len(loudness) - 1 :] / np.dot(
      loudness, loudness
    )
    assert echo[37:87].max() > 0.3  # 70 to 160 beats a minute
