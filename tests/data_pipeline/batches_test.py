# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.text.layout import NO_AUDIO, layout_prompt
from data_pipeline.batches import BatchPlan, pack_rows, pad, pad_per_utterance


def test_rows_lie_side_by_side_from_multiples_on():
  rng = np.random.default_rng(0)
  a, b, c = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 2, 7))
  laid = pack_rows([[a, b], [c]], BatchPlan((), 3, 3, 2, 2), 3, subsampling=4)
  ids = [[1] * 5 + [0] * 3 + [2] * 2 + [0] * 2, [1] * 7 + [0] * 5, [0] * 12]
  np.testing.assert_array_equal(laid.segment_ids, ids)
  np.testing.assert_array_equal(laid.frames[0, :5], a)
  np.testing.assert_array_equal(laid.frames[0, 8:10], b)
  np.testing.assert_array_equal(laid.frames[1, :7], c)
  assert not laid.frames[laid.segment_ids == 0].any()
  none = [-1, -1]
  assert laid.frame_index.tolist() == [[[0, 1], [2, -1]], [[0, 1], none], [none, none]]
  with pytest.raises(ValueError, match='row 0 needs 10 frames and has 8'):
    pack_rows([[a, b]], BatchPlan((), 1, 2, 2, 2), 3, subsampling=4)


@pytest.mark.parametrize('total', [1, 2, 3, 4, 7])
def test_hosts_share_the_rows(total):
  batch = BatchPlan(((3, 1), (4,), (2, 5)), rows=4, length=9, longest=5, per_row=2)
  shares = [batch.share([part], total) for part in range(total)]
  rows = sum((share.utterances for share in shares), ())
  assert rows[:3] == batch.utterances and not any(rows[3:])
  for share in shares:
    assert share.rows == len(share.utterances) == -(-4 // total)
    assert share[2:6] == batch[2:6]
    assert share.all_utterances == (3, 1, 4, 2, 5)
  both = batch.share([0, total - 1], total)
  assert both.utterances == shares[0].utterances + shares[-1].utterances
  assert both.rows == len(both.utterances)


def test_a_share_may_be_empty():
  share = BatchPlan(((0,),), rows=3, length=2, longest=2).share([2], 3)
  laid = pack_rows([[]], share, 5)
  assert laid.frames.shape == (1, 2, 5) and not laid.segment_ids.any()
  assert (laid.frame_index == NO_AUDIO).all()


def test_every_recording_has_its_own_padding():
  batch = BatchPlan(((3, 1), (4,)), rows=3, length=9, longest=5, per_row=2)
  array = pad_per_utterance([[[7, 8], [9]], [[5]]], batch, 3, 0, np.int32)
  assert array.tolist() == [[[7, 8, 0], [9, 0, 0]], [[5, 0, 0], [0] * 3], [[0] * 3] * 2]


def test_clips_are_laid_out_in_their_places():
  row = layout_prompt([(5, 6), 1, (7,), 0], [range(12, 15), range(15, 18)])
  assert row.tokens == [5, 6, 0, 0, 0, 7, 0, 0, 0]
  none = NO_AUDIO
  assert row.audio_index == [none, none, 15, 16, 17, none, 12, 13, 14]


def test_a_row_may_have_no_clip_or_begin_with_one():
  assert layout_prompt([(5, 6)], []) == ([5, 6], [NO_AUDIO, NO_AUDIO])
  assert layout_prompt([0], [(4, 5)]) == ([0, 0], [4, 5])
  assert layout_prompt([], []) == ([], [])


def test_padding_fills_up_behind():
  array = pad([[1, 2], [], [3]], (5, 3), NO_AUDIO, np.int32)
  assert array.dtype == np.int32
  expected = [[1, 2, -1], [-1] * 3, [3, -1, -1], [-1] * 3, [-1] * 3]
  assert array.tolist() == expected


def test_what_is_longer_than_its_row_is_refused():
  with pytest.raises(ValueError, match='a sequence of 4 does not fit in 3'):
    pad([[1, 2, 3, 4]], (1, 3), 0, np.int32)
