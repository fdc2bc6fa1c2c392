# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.features import SAMPLE_RATE
from data_pipeline.reverberation import (
  MAX_SECONDS,
  SPEED_OF_SOUND,
  random_response,
  reverberate,
  room_response,
)

ROOM = np.array([5.0, 4.0, 3.0])
SOURCE, MICROPHONE = np.array([1.0, 2.0, 1.5]), np.array([3.0, 2.0, 1.5])


@given(st.integers(0, 10_000))
def test_the_direct_path_comes_first(seed):
  first, second = (random_response(np.random.default_rng(seed)) for _ in '12')
  np.testing.assert_array_equal(first, second)
  assert first[0] >= 1 and (first >= 0).all() and np.isfinite(first).all()
  assert first.dtype == np.float32
  assert 1 < len(first) <= MAX_SECONDS * SAMPLE_RATE


def test_the_first_reflections_are_where_the_walls_are():
  response = room_response(ROOM, SOURCE, MICROPHONE, np.array([0.9, 0.7, 0.5]), 1)
  direct = 2.0
  paths = {  # reflected in one wall each: length in m, reflection
    'left': (1 + 3, 0.9),
    'right': (4 + 2, 0.9),
    'front': (np.hypot(2, 4), 0.7),  # as long as by the back
    'floor': (np.hypot(2, 3), 0.5),  # as long as by the ceiling
  }
  expected = np.zeros_like(response)
  expected[0] = 1
  for name, (length, reflection) in paths.items():
    delay = round((length - direct) / SPEED_OF_SOUND * SAMPLE_RATE)
    count = 1 if name in ('left', 'right') else 2
    expected[delay] += count * reflection * direct / length
  np.testing.assert_allclose(response, expected, rtol=1e-6)


def test_walls_that_absorb_everything_leave_the_direct_path():
  response = room_response(ROOM, SOURCE, MICROPHONE, np.zeros(3))
  assert response[0] == 1 and not response[1:].any()


@given(st.integers(0, 1000), st.integers(1, 9_001))
def test_length_loudness_and_timing_stay(seed, samples):
  rng = np.random.default_rng(seed)
  audio = np.zeros(samples, np.float32)
  audio[samples // 3 :] = rng.normal(size=samples - samples // 3) * 0.1
  wet = reverberate(audio, random_response(rng))
  assert wet.shape == audio.shape and wet.dtype == np.float32
  assert np.mean(wet**2) == pytest.approx(np.mean(audio**2), rel=1e-3)
  silent = np.abs(wet[: samples // 3])
  assert not silent.size or silent.max() < 1e-5  # nothing is heard before it is said


def test_convolution_is_the_direct_one():
  rng = np.random.default_rng(0)
  audio, response = rng.normal(size=(2, 70)).astype(np.float32)
  expected = np.convolve(audio, response[:11])[:70]
  expected *= np.sqrt(np.mean(audio**2) / np.mean(expected**2))
  np.testing.assert_allclose(reverberate(audio, response[:11]), expected, atol=1e-5)


def test_silence_stays_silent():
  silence = np.zeros(500, np.float32)
  response = random_response(np.random.default_rng(0))
  assert not reverberate(silence, response).any()
