# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.batches.padded import group_by_length, pad_to_step


def test_batches_have_all_items_and_respect_the_budget():
  lengths = [50, 300, 70, 70, 500, 120]
  batches = list(group_by_length(range(6), lengths.__getitem__, 400))
  assert sorted(i for _, members in batches for i in members) == list(range(6))
  for rows, members in batches:
    longest = max(lengths[i] for i in members)
    assert len(members) <= rows
    assert rows == 1 or rows * longest <= 400
    assert len({-(-lengths[i] // 64) for i in members}) == 1


def test_batches_are_yielded_as_soon_as_they_are_full():
  items = iter(['aa', 'b', 'cc', 'd', 'eee'])
  batches = group_by_length(items, len, 4, length_step=2)
  assert next(batches) == (2, ['aa', 'b'])
  assert next(items) == 'cc'  # not consumed yet
  assert list(batches) == [(1, ['eee']), (2, ['d'])]


def test_spectrograms_are_padded_to_a_step_within_the_limit():
  log_mels = [np.full((length, 3), length, np.float32) for length in (5, 9)]
  for max_frames, length in ((100, 12), (10, 10)):
    padded = pad_to_step(log_mels, 3, max_frames, length_step=4)
    assert padded.log_mel.shape == (3, length, 3)
    assert padded.frame_mask.sum(axis=1).tolist() == [5, 9, 0]
    expected = np.where(padded.frame_mask, [[5], [9], [0]], 0)
    np.testing.assert_array_equal(padded.log_mel[..., 1], expected)
  with pytest.raises(ValueError, match=r'\b9\b.*\b8\b'):
    pad_to_step(log_mels, 3, 8, length_step=4)
