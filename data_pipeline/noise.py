# SPDX-License-Identifier: Apache-2.0
"""Noise at a given signal-to-noise ratio: other talkers, music, coloured noise."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float

from data_pipeline.audio import SAMPLE_RATE

TALKERS = 3, 7  # utterances in a babble, minimum and maximum
TABLE_BITS = 11  # of the number of samples in a period of a tone
# Semitones of the chords of music above its key: major, minor, suspended, seventh.
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5, 7), (0, 4, 7, 10))
ROOTS = (0, 2, 3, 5, 7, 9)  # of the chords, in semitones above the key

_DRUM_SECONDS = 0.03  # in which the sound of a beat decays to 37 %


def scale_noise(
  audio: Float[np.ndarray, ' samples'], noise: Float[np.ndarray, ' samples'], snr: float
) -> Float[np.ndarray, ' samples']:
  """Return the noise with a mean power `snr` dB below that of the audio."""
  power = float(np.mean(np.square(noise, dtype=np.float32)))
  if power < 1e-20:
    return np.zeros_like(audio)
  gain = np.sqrt(float(np.mean(np.square(audio, dtype=np.float32))) / power)
  return (noise * np.float32(gain * 10 ** (-snr / 20))).astype(np.float32, copy=False)


def add_babble(
  waveform: Float[np.ndarray, ' samples'],
  others: Sequence[Float[np.ndarray, '_']],
  snr: float,
  rng: np.random.Generator,
) -> Float[np.ndarray, ' samples']:
  """Add a babble of other utterances; returns the waveform itself if there are none.

  Where the sum would exceed 1, all of it is made quieter, so that the ratio stays.

  snr: mean power of the waveform above that of the babble, in dB.
  """
  noise = babble(len(waveform), others, rng)
  mixed = waveform + scale_noise(waveform, noise, snr)
  return mixed / max(np.float32(1), np.abs(mixed).max(initial=0))


def babble(
  length: int, others: Sequence[Float[np.ndarray, '_']], rng: np.random.Generator
) -> Float[np.ndarray, ' length']:
  """Return the sum of utterances, equally loud, each from a random sample on."""
  total = np.zeros(length, np.float32)
  for other in others:
    start = int(rng.integers(len(other)))
    power = float(np.mean(np.square(other)))
    if power > 0:
      total += loop(other, length, start) / np.float32(np.sqrt(power))
  return total


def loop(
  audio: Float[np.ndarray, '_'], length: int, start: int = 0
) -> Float[np.ndarray, ' length']:
  """Return `length` samples from `start` on; the audio repeats."""
  if start + length <= len(audio):
    return audio[start : start + length]
  return np.resize(np.roll(audio, -start), length)


def coloured_noise(
  audio: Float[np.ndarray, ' samples'], snr: float, rng: np.random.Generator
) -> Float[np.ndarray, ' samples']:
  """Return noise between white and brown, `snr` dB below the audio."""
  white = _white_spectrum(len(audio), rng)
  noise = _filter_spectrum(white, rng.uniform(0, 1), len(audio))
  gain = np.sqrt(np.mean(audio**2) / (np.mean(noise**2) + 1e-12))
  return (noise * gain * 10 ** (-snr / 20)).astype(np.float32)


def pink_noise(length: int, rng: np.random.Generator) -> Float[np.ndarray, ' length']:
  """Return noise with the same power in every octave."""
  return _filter_spectrum(_white_spectrum(length, rng), 0.5, length)


def _white_spectrum(length: int, rng: np.random.Generator) -> Complex[np.ndarray, '_']:
  """Return the spectrum of at least `length` samples of white noise."""
  size = scipy.fft.next_fast_len(length, real=True)
  real, imaginary = rng.standard_normal((2, size // 2 + 1), np.float32)
  return real + 1j * imaginary


def _filter_spectrum(
  spectrum: Complex[np.ndarray, '_'], slope: float, length: int
) -> Float[np.ndarray, ' length']:
  """Return `length` samples with amplitudes divided by frequency to the `slope`."""
  size = scipy.fft.next_fast_len(length, real=True)
  frequency = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1)
  return scipy.fft.irfft(spectrum * frequency ** np.float32(-slope), size)[:length]


def music(length: int, rng: np.random.Generator) -> Float[np.ndarray, ' length']:
  """Return chords of harmonic tones that decay from beat to beat, and a drum.

  The chord changes every four beats; key, tempo, timbre and drum are random.
  """
  beat = round(SAMPLE_RATE * 60 / rng.uniform(70, 160))
  num_beats = -(-length // beat)
  num_bars = -(-num_beats // 4)
  key = 55 * 2 ** rng.uniform(0, 2)  # Hz, of the lowest tone
  roots = rng.choice(ROOTS, num_bars)
  chords = [CHORDS[i] for i in rng.integers(len(CHORDS), size=num_bars)]
  timbre = _wave_table(rng)
  tones = np.zeros(length, np.float32)
  for voice in range(max(map(len, CHORDS))):
    semitones = [r + c[voice % len(c)] for r, c in zip(roots, chords, strict=True)]
    pitches = key * 2 ** (np.asarray(semitones) / 12)
    # A phase is a 32-bit fraction of a period: it wraps around by itself.
    steps = np.round(pitches / SAMPLE_RATE * 2**32).astype(np.uint32)
    phase = np.cumsum(np.repeat(steps, 4 * beat)[:length], dtype=np.uint32)
    tones += timbre[phase >> np.uint32(32 - TABLE_BITS)]
  time = np.arange(beat, dtype=np.float32) / SAMPLE_RATE
  tones *= loop(np.exp(time * np.float32(-rng.uniform(0.5, 6))), length)
  hit = np.exp(time / np.float32(-_DRUM_SECONDS)) * rng.standard_normal(
    beat, np.float32
  )
  accents = np.tile(rng.uniform(0, 1, 4), num_bars)[:num_beats].astype(np.float32)
  drum = (accents[:, None] * hit).ravel()[:length]
  return tones + drum * np.float32(rng.uniform(0, 6))


def _wave_table(rng: np.random.Generator) -> Float[np.ndarray, '_']:
  """Return one period of a tone with eight harmonics of random strengths."""
  phase = np.arange(1 << TABLE_BITS, dtype=np.float32) * (2 * np.pi / (1 << TABLE_BITS))
  harmonics = np.arange(1, 9)
  strengths = rng.uniform(0, 1, 8) / harmonics ** rng.uniform(0.5, 2)
  waves = np.sin(harmonics[:, None] * phase + rng.uniform(0, 2 * np.pi, (8, 1)))
  return (strengths @ waves).astype(np.float32)
