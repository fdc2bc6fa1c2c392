# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from benchmarks import frontend


def test_all_agree_and_all_are_timed():
  found = frontend.measure(clips=2, seconds=0.7, rounds=1)
  assert all(np.isfinite(value) and value > 0 for value in found.values())
  assert {'ratio_vs_kaldi_native_fbank', 'ratio_vs_librosa'} <= found.keys()
  assert {'x_real_time', 'device_x_real_time'} <= found.keys()
  assert max(found['max_abs_diff'], found['device_max_abs_diff']) <= 1e-3


def test_another_definition_is_no_rival():
  silent, loud = np.zeros((1, 3, 5)), np.ones((1, 3, 5))
  names = ('kaldi', 'whisper', 'librosa', 'device_kaldi', 'device_whisper')
  timed = {name: lambda: silent for name in names}
  with pytest.raises(ValueError, match="differ by more than 0.001: {'max_abs_diff': 1"):
    frontend.differences(timed | {'kaldi_native_fbank': lambda: loud})
