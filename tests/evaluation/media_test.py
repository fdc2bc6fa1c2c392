# SPDX-License-Identifier: Apache-2.0
import base64
import io

import numpy as np
import pytest
import soundfile
from matplotlib import image

from acl_jax.evaluation import media


def decode(url, media_type):
  header, _, content = url.partition(';base64,')
  assert header == f'data:{media_type}'
  return io.BytesIO(base64.b64decode(content, validate=True))


@pytest.mark.parametrize('frames, columns', [(5, 5), (600, 600), (1_501, 500)])
def test_spectrograms_have_a_limited_width(frames, columns):
  log_mel = np.arange(frames * 8, dtype=np.float32).reshape(frames, 8)
  url = media.spectrogram_data_url(log_mel)
  pixels = image.imread(decode(url, 'image/png'), format='png')
  assert pixels.shape == (8, columns, 4)


def test_audio_is_mp3(activated_waveform):
  url = media.mp3_data_url(activated_waveform * 3)  # louder than the full scale
  decoded, rate = soundfile.read(decode(url, 'audio/mpeg'))
  assert rate == 16_000
  assert len(decoded) == pytest.approx(len(activated_waveform), abs=3_000)
