# SPDX-License-Identifier: Apache-2.0
"""Audio of 8 kHz is resampled as soxr's best quality does: flat, without images."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from data_pipeline.audio import read


@pytest.mark.parametrize('hertz', [300, 1_000, 3_000, 3_400])
def test_telephone_speech_is_resampled_as_by_the_reference(hertz):
  time = np.arange(40_000) / 8_000
  samples = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
  file = io.BytesIO()
  soundfile.write(file, samples, 8_000, 'FLOAT', format='WAV')
  resampled = read(file.getvalue())
  reference = soxr.resample(samples, 8_000, 16_000, 'VHQ')
  interior = slice(2_000, -2_000)
  np.testing.assert_allclose(resampled[interior], reference[interior], atol=2e-4)
  power = np.abs(np.fft.rfft(resampled * np.hanning(80_000))) ** 2
  image = power[5 * (8_000 - hertz) - 50 : 5 * (8_000 - hertz) + 50].sum()
  assert 10 * np.log10(image / power.sum() + 1e-15) < -100
