# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from benchmarks import frontend


@pytest.mark.full
def test_spectrograms_agree_and_are_timed():
  result = frontend.measure(clips=2, seconds=0.7, rounds=1)
  assert all(np.isfinite(value) and value > 0 for value in result.values())
  assert {'ratio_vs_kaldi_native_fbank', 'ratio_vs_librosa'} <= result.keys()
  assert {'x_real_time', 'x_real_time_whisper'} <= result.keys()
  assert max(result['max_abs_diff'], result['max_abs_diff_librosa']) <= 1e-3


def test_spectrograms_that_differ_are_refused():
  zeros, ones = np.zeros((1, 3, 5)), np.ones((1, 3, 5))
  calls = {name: lambda: zeros for name in ('kaldi', 'whisper', 'librosa')}
  with pytest.raises(ValueError, match=r"0\.001.*'max_abs_diff': 1"):
    frontend.max_differences(calls | {'kaldi_native_fbank': lambda: ones})
