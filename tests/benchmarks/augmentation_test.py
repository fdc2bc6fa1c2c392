# SPDX-License-Identifier: Apache-2.0
import numpy as np

from benchmarks import augmentation


def test_every_effect_is_timed(tmp_path):
  result = augmentation.measure(tmp_path, utterances=4, rounds=1, step=110.0)
  assert all(np.isfinite(value) for value in result.values())
  assert {'babble', 'reverberation', 'recorded', 'opus', 'mp3'} <= result.keys()
  assert result['opus'] > result['clipping']
  assert result['share_of_step'] == result['typical'] / 110.0
