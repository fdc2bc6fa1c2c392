# SPDX-License-Identifier: Apache-2.0
from acl_jax.text.layout import NO_AUDIO, layout_prompt


def test_clips_are_laid_out_at_their_positions():
  row = layout_prompt([(5, 6), 1, (7,), 0], [range(12, 15), range(15, 18)])
  assert row.tokens == [5, 6, 0, 0, 0, 7, 0, 0, 0]
  none = NO_AUDIO
  assert row.audio_index == [none, none, 15, 16, 17, none, 12, 13, 14]


def test_row_without_a_clip_or_with_a_clip_first():
  assert layout_prompt([(5, 6)], []) == ([5, 6], [NO_AUDIO, NO_AUDIO])
  assert layout_prompt([0], [(4, 5)]) == ([0, 0], [4, 5])
  assert layout_prompt([], []) == ([], [])
