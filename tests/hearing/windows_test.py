# SPDX-License-Identifier: Apache-2.0
"""Windows cover a recording once, are cut at pauses, and know what is silent."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.hearing.windows import Windows, WindowSizes, find_cut, frame_power
from data_pipeline.features import HOP
from tests.hearing.conftest import RATE, noise

SIZES = WindowSizes(window=120, step=4)


def windows_of(blocks, sizes=SIZES):
  windows = Windows(sizes)
  complete = [window for block in blocks for window in windows.append(block)]
  return [*complete, windows.finish()]


@given(st.integers(400, 9 * RATE), st.integers(0, 99))
def test_every_frame_is_the_own_frame_of_one_window(count, seed):
  samples = noise(9, seed)[:count]
  windows = windows_of([samples])
  bounds = [0]
  for window in windows:
    assert window.start % SIZES.step == 0
    assert len(window.samples) < (SIZES.window + 1) * HOP
    start = window.start * HOP
    expected = samples[start : start + len(window.samples)]
    np.testing.assert_array_equal(window.samples, expected)
    first, stop = window.own
    assert window.start + first == bounds[-1]
    assert first == (SIZES.context if window.start else 0)
    bounds.append(count // HOP if stop is None else window.start + stop)
    assert bounds[-1] > bounds[-2]
    if stop is not None:
      assert stop % SIZES.step == 0
      assert SIZES.window // 2 <= stop <= SIZES.window - SIZES.context
  assert bounds[-1] == count // HOP and windows[-1].own[1] is None
  assert windows[0].whole == (count < (SIZES.window + 1) * HOP)


@given(st.lists(st.integers(0, 30_000), max_size=9), st.integers(0, 99))
def test_the_sizes_of_blocks_change_nothing(sizes, seed):
  samples = noise(5, seed)
  blocks = np.split(samples, np.minimum(np.cumsum(sizes), len(samples)).astype(int))
  for actual, expected in itertools.zip_longest(
    windows_of(blocks), windows_of([samples])
  ):
    np.testing.assert_array_equal(actual.samples, expected.samples)
    assert (actual.start, actual.own, actual.silent) == (
      expected.start,
      expected.own,
      expected.silent,
    )


def test_a_cut_is_in_the_middle_of_the_last_pause():
  sizes = WindowSizes(window=400, step=2)
  samples = np.random.default_rng(0).normal(size=400 * HOP).astype(np.float32)
  for start, stop in ((40, 90), (210, 250), (290, 330)):
    samples[start * HOP : stop * HOP] *= 0.01
  assert abs(find_cut(frame_power(samples), sizes) - 310) <= 2
  samples[290 * HOP : 330 * HOP] *= 50.0  # no pause: only less loud
  assert abs(find_cut(frame_power(samples), sizes) - 230) <= 2


def test_silence_is_relative_to_what_was_heard_before():
  loud, quiet = noise(1.5, 1) + noise(1.5, 2), np.full(2 * RATE, 9e-4, np.float32)
  assert [w.silent for w in windows_of([quiet, quiet])][0]  # -60 dB
  assert not windows_of([4 * quiet, quiet])[0].silent
  after = windows_of([loud, quiet * 2, loud])
  assert not after[0].silent and any(w.silent for w in after[1:])
  assert not after[-1].silent


def test_a_recording_of_one_window_is_not_called_silent():
  (window,) = windows_of([np.zeros(RATE, np.float32)])
  assert window.whole and not window.silent


def test_a_window_of_few_frames_is_refused():
  with pytest.raises(ValueError, match=r'24 log-mel frames, 8 per'):
    WindowSizes(window=24, step=8)
