# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms: what the encoders hear."""

import functools

import numpy as np
import scipy.fft
from jaxtyping import Float

SAMPLE_RATE = 16_000  # samples per second
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms


@functools.cache
def mel_filters(num_mels: int) -> Float[np.ndarray, 'f m']:
  """Slaney's triangles with Slaney's area norm, as librosa defines them."""
  import librosa.filters  # slow to import, so only where it is used

  return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=WINDOW, n_mels=num_mels).T


def whisper_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Whisper's log-mel spectrogram, one frame per 10 ms: samples // 160 frames.

  The audio is 16 kHz in [-1, 1]. Whisper pads it to 30 s first; the caller may do so.
  Definition: Radford et al. 2022, section 2.2, and OpenAI's `whisper/audio.py`.
  """
  if len(audio) < WINDOW:
    raise ValueError(f'audio has {len(audio)} samples; one frame needs {WINDOW}')
  padded = np.pad(audio.astype(np.float32), WINDOW // 2, mode='reflect')
  frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]
  window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic
  # float32: the analysis keeps 1e-4 of the definition and is twice as fast as float64.
  power = np.square(np.abs(scipy.fft.rfft(frames * window)))
  log_mel = np.log10(np.maximum(power @ mel_filters(num_mels), 1e-10))
  log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
  return ((log_mel + 4.0) / 4.0).astype(np.float32)
