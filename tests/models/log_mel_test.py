# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax.models import log_mel
from data_pipeline import features

FILTERS = {
  'whisper': features.mel_filters,
  'parakeet': lambda bins: features.mel_filters(bins, features.FFT),
  'kaldi': features.kaldi_filters,
}
BINS, SAMPLES = 37, 9_111
LENGTHS = (9_111, 400, 8_000, 5_719, 559, 1_320)


def speech(samples, seed, level):
  """Harmonics and noise that come and go, at a level from loud to quiet."""
  rng = np.random.default_rng(seed)
  time = np.arange(samples) / features.SAMPLE_RATE
  voice = sum(np.sin(2 * np.pi * 130 * k * time + k * k) / k for k in range(1, 25))
  sound = (voice + rng.normal(scale=0.3, size=samples)) * np.sin(9 * time + 1)
  return (level * sound).astype(np.float32)


def sounds():
  return [
    speech(n, i, level)
    for i, (n, level) in enumerate(
      zip(LENGTHS, (0.3, 0.1, 1e-2, 1e-3, 1e-4, 0.03), strict=True)
    )
  ]


def batch(padding):
  rows = np.full((len(LENGTHS), SAMPLES), padding, np.float32)
  for row, sound in zip(rows, sounds(), strict=True):
    row[: len(sound)] = sound
  return jnp.asarray(rows), jnp.asarray(LENGTHS)


@pytest.fixture(scope='module', params=sorted(log_mel.LOG_MEL))
def made(request):
  name = request.param
  function, filters = jax.jit(log_mel.LOG_MEL[name]), FILTERS[name](BINS)
  return name, lambda *inputs: jax.device_get(function(*inputs, filters))


def test_a_batch_is_what_the_host_makes_of_each(made):
  name, function = made
  found, valid = function(*batch(0.0))
  host = features.features(name)
  assert found.shape == (len(LENGTHS), host.count(SAMPLES), BINS)
  assert found.dtype == np.float32
  for ours, real, sound in zip(found, valid, sounds(), strict=True):
    expected = host.log_mel(sound, BINS)
    np.testing.assert_array_equal(real, np.arange(len(real)) < len(expected))
    np.testing.assert_allclose(ours[real], expected, atol=1e-3, rtol=0)
    assert not ours[~real].any()


@pytest.mark.parametrize('garbage', [0.7, -1e9, np.nan])
def test_padding_changes_nothing(made, garbage):
  _, function = made
  for clean, dirty in zip(
    function(*batch(0.0)), function(*batch(garbage)), strict=True
  ):
    np.testing.assert_array_equal(clean, dirty)


def test_less_than_a_window_has_no_frames(made):
  _, function = made
  audio, lengths = batch(0.0)
  found, valid = function(audio, lengths.at[2:4].set(jnp.asarray([0, 399])))
  assert valid.any(axis=1).tolist() == [True, True, False, False, True, True]
  assert np.isfinite(found).all()


def test_the_numbers_are_the_hosts():
  names = ('WINDOW', 'HOP', 'FFT', 'PREEMPHASIS')
  for name in (*names, 'PARAKEET_FLOOR', 'PARAKEET_EPS', 'KALDI_FLOOR'):
    assert getattr(log_mel, name) == getattr(features, name)
  assert sorted(log_mel.LOG_MEL) == sorted(features.FEATURES)


@pytest.mark.parametrize('name', sorted(log_mel.LOG_MEL))
def test_what_does_not_fit_is_told(name):
  function, filters = log_mel.LOG_MEL[name], FILTERS[name](BINS)
  with pytest.raises(ValueError, match='audio has 399 samples; one frame needs 400'):
    function(jnp.zeros((2, 399)), jnp.asarray([399, 399]), filters)
  with pytest.raises(ValueError, match='filters have 7 bins, not'):
    function(jnp.zeros((2, 500)), jnp.asarray([500, 400]), filters[:7])
