# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from data_pipeline.batches import BatchPlan, pack_rows, pad, pad_per_utterance


def test_utterances_are_packed_from_multiples_of_the_subsampling():
  rng = np.random.default_rng(0)
  a, b, c = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 2, 7))
  packed = pack_rows([[a, b], [c]], BatchPlan((), 3, 3, 2, 2), 3, subsampling=4)
  ids = [[1] * 5 + [0] * 3 + [2] * 2 + [0] * 2, [1] * 7 + [0] * 5, [0] * 12]
  np.testing.assert_array_equal(packed.segment_ids, ids)
  np.testing.assert_array_equal(packed.frames[0, :5], a)
  np.testing.assert_array_equal(packed.frames[0, 8:10], b)
  np.testing.assert_array_equal(packed.frames[1, :7], c)
  assert not packed.frames[packed.segment_ids == 0].any()
  none = [-1, -1]
  expected = [[[0, 1], [2, -1]], [[0, 1], none], [none, none]]
  assert packed.frame_index.tolist() == expected
  with pytest.raises(ValueError, match=r'row 0 .*\b10\b.*\b8\b'):
    pack_rows([[a, b]], BatchPlan((), 1, 2, 2, 2), 3, subsampling=4)


@pytest.mark.parametrize('total', [1, 2, 3, 4, 7])
def test_parts_together_are_all_rows(total):
  plan = BatchPlan(
    ((3, 1), (4,), (2, 5)), rows=4, length=9, max_frames=5, max_per_row=2
  )
  parts = [plan.take_parts([part], total) for part in range(total)]
  rows = sum((part.utterances for part in parts), ())
  assert rows[:3] == plan.utterances and not any(rows[3:])
  for part in parts:
    assert part.rows == len(part.utterances) == -(-4 // total)
    assert part[2:6] == plan[2:6]
    assert part.all_utterances == (3, 1, 4, 2, 5)
  both = plan.take_parts([0, total - 1], total)
  assert both.utterances == parts[0].utterances + parts[-1].utterances
  assert both.rows == len(both.utterances)


def test_part_may_be_empty():
  part = BatchPlan(((0,),), rows=3, length=2, max_frames=2).take_parts([2], 3)
  packed = pack_rows([[]], part, 5)
  assert packed.frames.shape == (1, 2, 5) and not packed.segment_ids.any()
  assert (packed.frame_index == -1).all()


def test_each_utterance_is_padded():
  plan = BatchPlan(((3, 1), (4,)), rows=3, length=9, max_frames=5, max_per_row=2)
  array = pad_per_utterance([[[7, 8], [9]], [[5]]], plan, 3, 0, np.int32)
  assert array.tolist() == [[[7, 8, 0], [9, 0, 0]], [[5, 0, 0], [0] * 3], [[0] * 3] * 2]


def test_padding_is_at_the_end():
  array = pad([[1, 2], [], [3]], (5, 3), -1, np.int32)
  assert array.dtype == np.int32
  expected = [[1, 2, -1], [-1] * 3, [3, -1, -1], [-1] * 3, [-1] * 3]
  assert array.tolist() == expected


def test_sequence_longer_than_its_row_is_rejected():
  with pytest.raises(ValueError, match=r'\b4\b.*\b3\b'):
    pad([[1, 2, 3, 4]], (1, 3), 0, np.int32)
