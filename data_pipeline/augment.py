# SPDX-License-Identifier: Apache-2.0
"""Augmentation of audio and spectrograms: changes that keep the transcript valid."""

import dataclasses

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float

from data_pipeline.features import SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Settings of waveform augmentation; every share is a probability."""

  speed: float  # largest relative change of tempo and pitch, in both directions
  noise_share: float
  noise_snr: tuple[float, float]  # dB, minimum and maximum
  telephone_share: float  # of limiting the bandwidth to 4 kHz


@dataclasses.dataclass(frozen=True)
class Masking:
  """Settings of SpecAugment (Park et al. 2019)."""

  mel_masks: int
  mel_width: int  # bins per mask at most
  time_masks: int
  time_share: float  # of the frames, per mask at most


def augmented_length(
  samples: int, settings: Augmentation, rng: np.random.Generator
) -> int:
  """Draw the length in samples of an augmented copy, as `augment` does first."""
  return round(samples / (1 + settings.speed * rng.uniform(-1, 1)))


def augment(
  audio: Float[np.ndarray, ' samples'],
  settings: Augmentation,
  rng: np.random.Generator,
  length: int | None = None,
) -> Float[np.ndarray, ' changed']:
  """Return an augmented copy of 16 kHz audio, a function of the audio and `rng`.

  length: of the copy in samples, if `augmented_length` has drawn it already.
  """
  if length is None:
    length = augmented_length(len(audio), settings, rng)
  audio = soxr.resample(audio, SAMPLE_RATE * len(audio) / length, SAMPLE_RATE)
  if rng.random() < settings.telephone_share:
    narrow = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
    audio = soxr.resample(narrow, SAMPLE_RATE // 2, SAMPLE_RATE)
  # The resampler may be off by a sample, but batches are planned with exact lengths.
  audio = np.pad(audio, (0, max(0, length - len(audio))))[:length]
  if rng.random() < settings.noise_share:
    audio = audio + coloured_noise(audio, rng.uniform(*settings.noise_snr), rng)
  return np.clip(audio * rng.uniform(0.5, 1.2), -1, 1).astype(np.float32)


def coloured_noise(
  audio: Float[np.ndarray, ' samples'], snr: float, rng: np.random.Generator
) -> Float[np.ndarray, ' samples']:
  """Return noise between white and brown, `snr` dB below the audio."""
  size = scipy.fft.next_fast_len(len(audio), real=True)
  real, imaginary = rng.standard_normal((2, size // 2 + 1), np.float32)
  frequency = np.maximum(np.arange(len(real), dtype=np.float32), 1)
  envelope = frequency ** np.float32(-rng.uniform(0, 1))
  noise = scipy.fft.irfft((real + 1j * imaginary) * envelope, size)[: len(audio)]
  gain = np.sqrt(np.mean(audio**2) / (np.mean(noise**2) + 1e-12))
  return (noise * gain * 10 ** (-snr / 20)).astype(np.float32)


def mask_spectrogram(
  log_mel: Float[np.ndarray, 't m'], settings: Masking, rng: np.random.Generator
) -> Float[np.ndarray, 't m']:
  """Return a copy with random frequency bands and time spans set to the mean."""
  masked, mean = log_mel.copy(), log_mel.mean()
  frames, bins = log_mel.shape
  for _ in range(settings.mel_masks):
    width = rng.integers(min(settings.mel_width, bins) + 1)
    start = rng.integers(bins - width + 1)
    masked[:, start : start + width] = mean
  for _ in range(settings.time_masks):
    width = rng.integers(int(settings.time_share * frames) + 1)
    start = rng.integers(frames - width + 1)
    masked[start : start + width] = mean
  return masked
