# SPDX-License-Identifier: Apache-2.0
"""Other rooms, microphones and speakers: changes to a recording that keep its words."""

import dataclasses

import numpy as np
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


def changed_length(samples: int, how: Augmentation, rng: np.random.Generator) -> int:
  """How many samples `augment` makes of so many; advances `rng` as it begins to."""
  return round(samples / (1 + how.speed * rng.uniform(-1, 1)))


def augment(
  audio: Float[np.ndarray, ' samples'], how: Augmentation, rng: np.random.Generator
) -> Float[np.ndarray, ' changed']:
  """One changed copy of a 16 kHz recording; a function of the recording and `rng`."""
  length = changed_length(len(audio), how, rng)
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
  spectrum = np.fft.rfft(rng.standard_normal(len(audio)))
  frequency = np.maximum(np.arange(len(spectrum)), 1)
  coloured = np.fft.irfft(spectrum * frequency ** -rng.uniform(0, 1), len(audio))
  loudness = np.sqrt(np.mean(audio**2) / (np.mean(coloured**2) + 1e-12))
  return (coloured * loudness * 10 ** (-snr / 20)).astype(np.float32)
