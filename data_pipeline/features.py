# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms: what the encoders hear, each family by its own definition.

All take 16 kHz audio in [-1, 1] and give a frame per 10 ms.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Float

from data_pipeline.audio import SAMPLE_RATE

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples that Parakeet and Kaldi transform, zeros beside the window
PREEMPHASIS = 0.97
CACHED = 128  # frames analysed at a time: all that is made of them stays in the cache

PARAKEET_FLOOR = 2.0**-24  # added to a power before its logarithm
PARAKEET_EPS = 1e-5  # added to a standard deviation
KALDI_FLOOR = float(np.finfo(np.float32).eps)
KALDI_LOWEST = 20.0  # Hz


@functools.cache
def mel_filters(num_mels: int, fft: int = WINDOW) -> Float[np.ndarray, 'f m']:
  """Slaney's triangles with Slaney's area norm, as librosa defines them."""
  import librosa.filters  # slow to import, so only where it is used

  return librosa.filters.mel(sr=SAMPLE_RATE, n_fft=fft, n_mels=num_mels).T


def whisper_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Whisper's log-mel spectrogram: samples // 160 frames.

  Whisper pads the audio to 30 s first; the caller may do so.
  Definition: Radford et al. 2022, section 2.2, and OpenAI's `whisper/audio.py`.
  """
  _check_length(audio)
  padded = np.pad(audio.astype(np.float32), WINDOW // 2, mode='reflect')
  window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic
  frames = _frames(padded, WINDOW)[:-1]
  mel = _mel(
    frames, lambda block: block * window, WINDOW, _sparse(mel_filters, num_mels)
  )
  log_mel = np.log10(np.maximum(mel, 1e-10))
  log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
  return ((log_mel + 4.0) / 4.0).astype(np.float32)


def parakeet_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """NeMo's log-mel spectrogram, each bin standardised: samples // 160 frames.

  Definition: Transformers' `ParakeetFeatureExtractor`, which has NeMo's without dither.
  """
  _check_length(audio)
  audio = audio.astype(np.float32)
  sharp = np.append(audio[:1], audio[1:] - PREEMPHASIS * audio[:-1])
  frames = _frames(np.pad(sharp, FFT // 2), FFT)[: len(audio) // HOP]
  beside = (FFT - WINDOW) // 2
  window = np.pad(np.hanning(WINDOW).astype(np.float32), beside)
  mel = _mel(
    frames, lambda block: block * window, FFT, _sparse(mel_filters, num_mels, FFT)
  )
  log_mel = np.log(mel + PARAKEET_FLOOR)
  deviation = log_mel.std(axis=0, ddof=1)
  return ((log_mel - log_mel.mean(axis=0)) / (deviation + PARAKEET_EPS)).astype(
    np.float32
  )


def kaldi_log_mel(
  audio: Float[np.ndarray, ' samples'], num_mels: int = 80
) -> Float[np.ndarray, 't m']:
  """Kaldi's log-mel filter banks without dither: 1 + (samples - 400) // 160 frames.

  Definition: Kaldi's `feature-window.cc` and `mel-computations.cc`, defaults but for
  the number of bins. Kaldi itself scales audio to 16 bits, which adds a constant.
  """
  _check_length(audio)
  frames = _frames(audio.astype(np.float32), WINDOW)
  window = (np.hanning(WINDOW) ** 0.85).astype(np.float32)  # Povey's

  def shape(block: np.ndarray) -> np.ndarray:
    block = block - block.mean(axis=1, keepdims=True)
    block[:, 1:] -= PREEMPHASIS * block[:, :-1]
    block[:, 0] *= 1 - PREEMPHASIS  # the sample before a frame is its first
    block *= window
    return block

  mel = _mel(frames, shape, FFT, _sparse(kaldi_filters, num_mels))
  return np.log(np.maximum(mel, KALDI_FLOOR))


@functools.cache
def kaldi_filters(num_mels: int) -> Float[np.ndarray, 'f m']:
  """Kaldi's triangles, on the mel scale itself and with no area norm."""
  mel = lambda hertz: 1127.0 * np.log1p(np.asarray(hertz) / 700.0)  # noqa: E731
  corners = np.linspace(mel(KALDI_LOWEST), mel(SAMPLE_RATE / 2), num_mels + 2)
  left, centre, right = corners[:-2], corners[1:-1], corners[2:]
  bins = mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
  rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
  return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def _check_length(audio: np.ndarray) -> None:
  if len(audio) < WINDOW:
    raise ValueError(f'audio has {len(audio)} samples; one frame needs {WINDOW}')


def _frames(audio: np.ndarray, width: int) -> np.ndarray:
  return np.lib.stride_tricks.sliding_window_view(audio, width)[::HOP]


def _mel(
  frames: np.ndarray,
  shape: Callable[[np.ndarray], np.ndarray],
  fft: int,
  filters: scipy.sparse.csr_array,
) -> Float[np.ndarray, 't m']:
  """The power of frames, windowed and so on by `shape`, in every mel bin."""
  mel = np.empty((len(frames), filters.shape[0]), np.float32)
  for start in range(0, len(frames), CACHED):
    # float32: the analysis keeps 1e-4 of the definition at twice float64's speed.
    spectrum = scipy.fft.rfft(shape(frames[start : start + CACHED]), fft)
    power = spectrum.real**2 + spectrum.imag**2  # no square root, unlike `abs`
    mel[start : start + CACHED] = (filters @ power.T).T
  return mel


@functools.cache
def _sparse(make: Callable[..., np.ndarray], *sizes: int) -> scipy.sparse.csr_array:
  """Filters as [m f], without their zeros, of which there are 40 to every number.

  A dense product would be slower, and run in threads of its own: these fight with the
  loader's, and their number may decide the last bit.
  """
  return scipy.sparse.csr_array(make(*sizes).T)


class Features(NamedTuple):
  """One family's definition: the spectrogram, and how many frames samples make."""

  log_mel: Callable[..., np.ndarray]
  count: Callable[[int], int]


def features(name: str) -> Features:
  """Those called `name`, a key of `FEATURES`."""
  if name not in FEATURES:
    raise ValueError(f'features is {name!r}; known: {", ".join(sorted(FEATURES))}')
  return FEATURES[name]


FEATURES = {
  'whisper': Features(whisper_log_mel, lambda samples: samples // HOP),
  'parakeet': Features(parakeet_log_mel, lambda samples: samples // HOP),
  'kaldi': Features(kaldi_log_mel, lambda samples: 1 + (samples - WINDOW) // HOP),
}
