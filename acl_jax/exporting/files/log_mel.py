# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms by the definitions that encoders use: a frame every 10 ms."""

import functools

import numpy as np

SAMPLE_RATE = 16_000  # samples per second
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples, of Parakeet and Kaldi; the window is zero-padded to it
PREEMPHASIS = 0.97


def whisper_log_mel(audio: np.ndarray, num_mels: int) -> np.ndarray:
  """Whisper's log-mel without padding to 30 s: [samples // 160, mels]."""
  window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic
  frames = _frames(np.pad(audio, WINDOW // 2, mode='reflect'), WINDOW)[:-1]
  mel = _power(frames * window, WINDOW) @ slaney_filters(num_mels, WINDOW)
  log_mel = np.log10(np.maximum(mel, 1e-10))
  log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
  return ((log_mel + 4.0) / 4.0).astype(np.float32)


def parakeet_log_mel(audio: np.ndarray, num_mels: int) -> np.ndarray:
  """NeMo's log-mel without dither, each bin standardised: [samples // 160, mels]."""
  emphasised = np.append(audio[:1], audio[1:] - PREEMPHASIS * audio[:-1])
  frames = _frames(np.pad(emphasised, FFT // 2), FFT)[: len(audio) // HOP]
  window = np.pad(np.hanning(WINDOW).astype(np.float32), (FFT - WINDOW) // 2)
  mel = _power(frames * window, FFT) @ slaney_filters(num_mels, FFT)
  log_mel = np.log(mel + 2.0**-24)
  deviation = log_mel.std(axis=0, ddof=1) + 1e-5
  return ((log_mel - log_mel.mean(axis=0)) / deviation).astype(np.float32)


def kaldi_log_mel(audio: np.ndarray, num_mels: int) -> np.ndarray:
  """Kaldi's log-mel without dither: [1 + (samples - 400) // 160, mels]."""
  frames = _frames(audio, WINDOW)
  frames = frames - frames.mean(axis=1, keepdims=True)
  previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
  window = (np.hanning(WINDOW) ** 0.85).astype(np.float32)  # Povey's
  frames = (frames - PREEMPHASIS * previous) * window
  mel = _power(frames, FFT) @ kaldi_filters(num_mels)
  return np.log(np.maximum(mel, np.finfo(np.float32).eps)).astype(np.float32)


LOG_MEL = {
  'whisper': whisper_log_mel,
  'parakeet': parakeet_log_mel,
  'kaldi': kaldi_log_mel,
}


def log_mel(
  features: str, audio: np.ndarray, num_mels: int, trailing_silence: int = 0
) -> np.ndarray:
  """Compute the log-mel [t m] of 16 kHz audio in [-1, 1], and of silence after it.

  features: a key of LOG_MEL. trailing_silence: frames.
  """
  if len(audio) < WINDOW:
    raise ValueError(f'the audio has {len(audio)} samples; a frame needs {WINDOW}')
  audio = np.pad(audio.astype(np.float32), (0, trailing_silence * HOP))
  return LOG_MEL[features](audio, num_mels)


@functools.cache
def slaney_filters(num_mels: int, fft: int) -> np.ndarray:
  """Triangles on Slaney's mel scale with area normalisation: [FFT bins, mels]."""
  linear = 200 / 3  # Hz per mel below the knee
  knee = 1_000.0  # Hz; the scale is logarithmic above it
  ratio = np.log(6.4) / 27  # per mel above the knee
  mels = np.linspace(
    0, knee / linear + np.log(SAMPLE_RATE / 2 / knee) / ratio, num_mels + 2
  )
  logarithmic = knee * np.exp(ratio * (mels - knee / linear))
  corners = np.where(mels < knee / linear, mels * linear, logarithmic)
  triangles = _triangles(corners, _bins(fft))
  return (triangles * 2 / (corners[2:] - corners[:-2])).astype(np.float32)


@functools.cache
def kaldi_filters(num_mels: int) -> np.ndarray:
  """Triangles on Kaldi's mel scale from 20 Hz: [FFT bins, mels]."""

  def mel(hertz):
    return 1127.0 * np.log1p(hertz / 700.0)

  corners = np.linspace(mel(20.0), mel(SAMPLE_RATE / 2), num_mels + 2)
  return _triangles(corners, mel(_bins(FFT))).astype(np.float32)


def _triangles(corners: np.ndarray, bins: np.ndarray) -> np.ndarray:
  left, centre, right = corners[:-2], corners[1:-1], corners[2:]
  bins = bins[:, None]
  rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
  return np.maximum(np.minimum(rising, falling), 0)


def _bins(fft: int) -> np.ndarray:
  return np.arange(fft // 2 + 1) * SAMPLE_RATE / fft


def _frames(audio: np.ndarray, width: int) -> np.ndarray:
  return np.lib.stride_tricks.sliding_window_view(audio, width)[::HOP]


def _power(frames: np.ndarray, fft: int) -> np.ndarray:
  spectrum = np.fft.rfft(frames, fft)
  return spectrum.real**2 + spectrum.imag**2
