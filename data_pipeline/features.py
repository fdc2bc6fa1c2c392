# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms, the input of the encoders, as each model family defines them.

All take 16 kHz audio in [-1, 1] and return one frame per 10 ms.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Float

from data_pipeline.audio import SAMPLE_RATE

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples that Parakeet and Kaldi transform: the window padded with zeros
PREEMPHASIS = 0.97
BLOCK_FRAMES = (
  128  # transformed at a time, so that intermediate results fit in the cache
)

PARAKEET_FLOOR = 2.0**-24  # added to a power before its logarithm
PARAKEET_EPS = 1e-5  # added to a standard deviation
KALDI_FLOOR = float(np.finfo(np.float32).eps)
KALDI_LOWEST = 20.0  # Hz


@functools.cache
def mel_filters(num_mels: int, fft: int = WINDOW) -> Float[np.ndarray, 'f m']:
  """Return triangular filters on Slaney's mel scale with his area norm, by librosa."""
  import librosa.filters  # slow to import

  return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=fft, n_mels=num_mels).T


def whisper_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Return Whisper's log-mel spectrogram: samples // 160 frames.

  Whisper pads the audio to 30 s first, which is left to the caller.
  Source: Radford et al. 2022, section 2.2, and OpenAI's `whisper/audio.py`.
  """
  _check_length(audio)
  padded = np.pad(audio.astype(np.float32), WINDOW // 2, mode='reflect')
  window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic
  frames = _sliding_frames(padded, WINDOW)[:-1]
  mel = _mel_power(
    frames, lambda block: block * window, WINDOW, _sparse_filters(mel_filters, num_mels)
  )
  log_mel = np.log10(np.maximum(mel, 1e-10))
  log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
  return ((log_mel + 4.0) / 4.0).astype(np.float32)


def parakeet_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Return NeMo's log-mel spectrogram, each bin standardised: samples // 160 frames.

  Source: Transformers' `ParakeetFeatureExtractor`, which is NeMo's without dither.
  """
  _check_length(audio)
  audio = audio.astype(np.float32)
  emphasized = np.append(audio[:1], audio[1:] - PREEMPHASIS * audio[:-1])
  frames = _sliding_frames(np.pad(emphasized, FFT // 2), FFT)[: len(audio) // HOP]
  padding = (FFT - WINDOW) // 2
  window = np.pad(np.hanning(WINDOW).astype(np.float32), padding)
  mel = _mel_power(
    frames,
    lambda block: block * window,
    FFT,
    _sparse_filters(mel_filters, num_mels, FFT),
  )
  log_mel = np.log(mel + PARAKEET_FLOOR)
  deviation = log_mel.std(axis=0, ddof=1)
  return ((log_mel - log_mel.mean(axis=0)) / (deviation + PARAKEET_EPS)).astype(
    np.float32
  )


def kaldi_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Return Kaldi's log-mel filter banks: 1 + (samples - 400) // 160 frames.

  Source: Kaldi's `feature-window.cc` and `mel-computations.cc`, with defaults except
  for dither and the number of bins. Kaldi scales audio to 16 bits, which adds a
  constant.
  """
  _check_length(audio)
  frames = _sliding_frames(audio.astype(np.float32), WINDOW)
  window = (np.hanning(WINDOW) ** 0.85).astype(np.float32)  # Povey's

  def apply_window(block: np.ndarray) -> np.ndarray:
    block = block - block.mean(axis=1, keepdims=True)
    block[:, 1:] -= PREEMPHASIS * block[:, :-1]
    block[:, 0] *= 1 - PREEMPHASIS  # as if the first sample were repeated before it
    block *= window
    return block

  mel = _mel_power(frames, apply_window, FFT, _sparse_filters(kaldi_filters, num_mels))
  return np.log(np.maximum(mel, KALDI_FLOOR))


@functools.cache
def kaldi_filters(num_mels: int) -> Float[np.ndarray, 'f m']:
  """Return Kaldi's filters: triangular on the mel scale, without an area norm."""
  mel = lambda hertz: 1127.0 * np.log1p(np.asarray(hertz) / 700.0)  # noqa: E731
  corners = np.linspace(mel(KALDI_LOWEST), mel(SAMPLE_RATE / 2), num_mels + 2)
  left, centre, right = corners[:-2], corners[1:-1], corners[2:]
  bins = mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
  rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
  return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def _check_length(audio: np.ndarray) -> None:
  if len(audio) < WINDOW:
    raise ValueError(f'audio has {len(audio)} samples; one frame needs {WINDOW}')


def _sliding_frames(audio: np.ndarray, width: int) -> np.ndarray:
  return np.lib.stride_tricks.sliding_window_view(audio, width)[::HOP]


def _mel_power(
  frames: np.ndarray,
  apply_window: Callable[[np.ndarray], np.ndarray],
  fft: int,
  filters: scipy.sparse.csr_array,
) -> Float[np.ndarray, 't m']:
  """Return the power of every frame in every mel bin."""
  mel = np.empty((len(frames), filters.shape[0]), np.float32)
  for start in range(0, len(frames), BLOCK_FRAMES):
    # float32 is twice as fast as float64 and within 1e-4 of the definition.
    spectrum = scipy.fft.rfft(apply_window(frames[start : start + BLOCK_FRAMES]), fft)
    power = spectrum.real**2 + spectrum.imag**2  # no square root, unlike `abs`
    mel[start : start + BLOCK_FRAMES] = (filters @ power.T).T
  return mel


@functools.cache
def _sparse_filters(
  make_filters: Callable[..., np.ndarray], *sizes: int
) -> scipy.sparse.csr_array:
  """Return filters as a sparse [m f] matrix: 40 of 41 elements are zero.

  A dense product is slower and multithreaded: its threads compete with the loader's,
  and the last bit of the result may depend on their number.
  """
  return scipy.sparse.csr_array(make_filters(*sizes).T)


class Features(NamedTuple):
  """A family's log-mel spectrogram, and its number of frames given the samples."""

  log_mel: Callable[..., np.ndarray]
  num_frames: Callable[[Any], Any]  # of an int, or of an array of them


def get_features(name: str) -> Features:
  """Return an entry of `FEATURES`; ValueError if the name is unknown."""
  if name not in FEATURES:
    raise ValueError(f'features is {name!r}; known: {", ".join(sorted(FEATURES))}')
  return FEATURES[name]


Count = TypeVar('Count', int, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Frontend:
  """From a waveform to the log-mel frames that an encoder takes.

  features: a key of `FEATURES`. trailing_silence: log-mel frames of silence that follow
  every waveform.
  """

  features: str
  num_mel_bins: int
  trailing_silence: int = 0

  @classmethod
  def of(cls, encoder: Any) -> 'Frontend':
    """Return the frontend of an encoder with this config."""
    return cls(encoder.features, encoder.num_mel_bins, encoder.trailing_silence)

  def log_mel(self, audio: Float[np.ndarray, ' samples']) -> Float[np.ndarray, 't m']:
    """Return the log-mel frames; ValueError if the audio is shorter than a window."""
    _check_length(audio)
    padded = np.pad(audio, (0, self.trailing_silence * HOP))
    return get_features(self.features).log_mel(padded, self.num_mel_bins)

  def num_frames(self, samples: Count) -> Count:
    """Return the number of log-mel frames of so many samples."""
    count = samples + self.trailing_silence * HOP
    return get_features(self.features).num_frames(count)


FEATURES = {
  'whisper': Features(whisper_log_mel, lambda samples: samples // HOP),
  'parakeet': Features(parakeet_log_mel, lambda samples: samples // HOP),
  'kaldi': Features(kaldi_log_mel, lambda samples: 1 + (samples - WINDOW) // HOP),
}
