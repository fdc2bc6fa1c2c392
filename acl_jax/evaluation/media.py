# SPDX-License-Identifier: Apache-2.0
"""Spectrograms and audio as `data:` URLs, for a self-contained HTML page."""

import base64
import io

import numpy as np
import soundfile
from jaxtyping import Float, Float32

from data_pipeline.audio import SAMPLE_RATE

MAX_COLUMNS = 600  # of a spectrogram image


def spectrogram_data_url(log_mel: Float[np.ndarray, 't m']) -> str:
  """Encode a log-mel spectrogram as a PNG, low frequencies at the bottom.

  Adjacent frames are averaged so that the image has at most `MAX_COLUMNS` columns.
  """
  from matplotlib import image  # slow to import

  frames_per_column = -(-len(log_mel) // MAX_COLUMNS)
  num_columns = len(log_mel) // frames_per_column
  frames = log_mel[: num_columns * frames_per_column]
  columns = frames.reshape(num_columns, frames_per_column, -1).mean(axis=1)
  file = io.BytesIO()
  image.imsave(file, columns.T, cmap='magma', origin='lower', format='png')
  return _data_url('image/png', file.getvalue())


def mp3_data_url(waveform: Float32[np.ndarray, ' samples']) -> str:
  """Encode 16 kHz mono audio as an MP3, which every browser plays."""
  return _data_url('audio/mpeg', encode_mp3(waveform))


def encode_mp3(waveform: Float32[np.ndarray, ' samples']) -> bytes:
  """Encode 16 kHz mono audio as an MP3."""
  file = io.BytesIO()
  clipped = np.clip(waveform, -1, 1)
  soundfile.write(file, clipped, SAMPLE_RATE, 'MPEG_LAYER_III', format='MP3')
  return file.getvalue()


def _data_url(media_type: str, content: bytes) -> str:
  return f'data:{media_type};base64,{base64.b64encode(content).decode()}'
