# SPDX-License-Identifier: Apache-2.0
"""Other rooms, microphones and speakers: changes to a recording that keep its words."""

import dataclasses

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float

from data_pipeline.features import SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """How far a recording may be changed; every share is a probability."""

  speed: float  # ± this share of the tempo, and of the pitch with it
  noise_share: float
  noise_snr: tuple[float, float]  # dB, least and most
  telephone_share: float  # recordings cut to 4 kHz of bandwidth


@dataclasses.dataclass(frozen=True)
class Masking:
  """How much of a spectrogram is hidden (SpecAugment, Park et al. 2019)."""

  mel_masks: int
  mel_width: int  # bins that a mask may hide
  time_masks: int
  time_share: float  # of the frames that a mask may hide


def augmented_length(samples: int, how: Augmentation, rng: np.random.Generator) -> int:
  """How many samples `augment` makes of so many; advances `rng` as it begins to."""
  return round(samples / (1 + how.speed * rng.uniform(-1, 1)))


def augment(
  audio: Float[np.ndarray, ' samples'],
  how: Augmentation,
  rng: np.random.Generator,
  length: int | None = None,
) -> Float[np.ndarray, ' changed']:
  """One changed copy of a 16 kHz recording; a function of the recording and `rng`.

  length: of the copy, in samples, where its tempo is drawn already.
  """
  if length is None:
    length = augmented_length(len(audio), how, rng)
  audio = soxr.resample(audio, SAMPLE_RATE * len(audio) / length, SAMPLE_RATE)
  if rng.random() < how.telephone_share:
    narrow = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
    audio = soxr.resample(narrow, SAMPLE_RATE // 2, SAMPLE_RATE)
  # The resampler may be a sample off; who plans batches needs to know.
  audio = np.pad(audio, (0, max(0, length - len(audio))))[:length]
  if rng.random() < how.noise_share:
    audio = audio + noise(audio, rng.uniform(*how.noise_snr), rng)
  return np.clip(audio * rng.uniform(0.5, 1.2), -1, 1).astype(np.float32)


def noise(
  audio: Float[np.ndarray, ' samples'], snr: float, rng: np.random.Generator
) -> Float[np.ndarray, ' samples']:
  """Coloured noise, white to brown, `snr` dB below the recording."""
  size = scipy.fft.next_fast_len(len(audio), real=True)
  real, imaginary = rng.standard_normal((2, size // 2 + 1), np.float32)
  frequency = np.maximum(np.arange(len(real), dtype=np.float32), 1)
  envelope = frequency ** np.float32(-rng.uniform(0, 1))
  coloured = scipy.fft.irfft((real + 1j * imaginary) * envelope, size)[: len(audio)]
  loudness = np.sqrt(np.mean(audio**2) / (np.mean(coloured**2) + 1e-12))
  return (coloured * loudness * 10 ** (-snr / 20)).astype(np.float32)


def mask(
  log_mel: Float[np.ndarray, 't m'], how: Masking, rng: np.random.Generator
) -> Float[np.ndarray, 't m']:
  """A spectrogram with bands of bins and stretches of time at its mean value."""
  masked, hidden = log_mel.copy(), log_mel.mean()
  frames, bins = log_mel.shape
  for _ in range(how.mel_masks):
    width = rng.integers(min(how.mel_width, bins) + 1)
    start = rng.integers(bins - width + 1)
    masked[:, start : start + width] = hidden
  for _ in range(how.time_masks):
    width = rng.integers(int(how.time_share * frames) + 1)
    start = rng.integers(frames - width + 1)
    masked[start : start + width] = hidden
  return masked
