# SPDX-License-Identifier: Apache-2.0
"""Augmentation of audio and spectrograms: changes that keep the transcript valid."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import soxr
from jaxtyping import Float, Int

from data_pipeline.channels import apply_codec, check_codecs, clip, telephone_line
from data_pipeline.features import SAMPLE_RATE
from data_pipeline.noise import babble, coloured_noise, loop, music, scale_noise
from data_pipeline.noise_folders import NoiseFolders
from data_pipeline.reverberation import random_response, reverberate

# Draws waveforms of other utterances with a generator.
ReadOthers = Callable[[np.random.Generator], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Settings of waveform augmentation; every share is a probability.

  ValueError if a value is out of range.
  """

  speed: float  # largest relative change of tempo and pitch, in both directions
  noise_share: float  # of coloured noise
  noise_snr: tuple[float, float]  # dB, minimum and maximum; of noise of every kind
  telephone_share: float  # of limiting the bandwidth to 4 kHz, before the noise
  reverberation_share: float = 0.0  # of a random room
  babble_share: float = 0.0  # of 3 to 7 other utterances of the corpus at once
  music_share: float = 0.0  # of synthetic chords and drums
  recorded_share: float = 0.0  # of noise from `noise_folders`
  noise_folders: tuple[str, ...] = ()  # of audio files, at any depth
  clipping_share: float = 0.0  # of distortion of the loudest samples
  line_share: float = 0.0  # of a telephone line: 300 to 3400 Hz, noise included
  mu_law_share: float = 0.0  # of those lines that also round to the 8 bits of mu-law
  codec_share: float = 0.0  # of a lossy codec at 6 to 24 kbit/s
  codecs: tuple[str, ...] = ('opus', 'mp3')  # each equally likely
  gain: tuple[float, float] = (0.5, 1.2)  # amplitude, minimum and maximum

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name.endswith('_share') and not 0 <= value <= 1:
        raise ValueError(f'{field.name} is {value}; the limits are 0 and 1')
    if not 0 <= self.speed < 1:
      raise ValueError(f'speed is {self.speed}; it must be at least 0 and below 1')
    for name in ('noise_snr', 'gain'):
      low, high = getattr(self, name)
      if not low <= high:
        raise ValueError(f'{name} is {(low, high)}; the minimum comes first')
    if self.gain[0] <= 0:
      raise ValueError(f'gain is {self.gain}; it must be above 0')
    if self.recorded_share and not self.noise_folders:
      raise ValueError(
        f'recorded_share is {self.recorded_share}, but noise_folders is empty'
      )
    if self.codec_share and not self.codecs:
      raise ValueError(f'codec_share is {self.codec_share}, but codecs is empty')


@dataclasses.dataclass(frozen=True)
class Masking:
  """Settings of SpecAugment (Park et al. 2019)."""

  mel_masks: int
  mel_width: int  # bins per mask at most
  time_masks: int
  time_share: float  # of the frames, per mask at most


class Augmenter:
  """Augments 16 kHz audio as a function of the audio and a generator alone.

  An effect draws from a generator of its own: turning one on changes no other.

  ValueError if a noise folder has no readable audio, or a codec is missing.
  """

  def __init__(self, settings: Augmentation):
    self.settings = settings
    self._recorded = None
    if settings.recorded_share:
      self._recorded = NoiseFolders(settings.noise_folders)
    if settings.codec_share:
      check_codecs(settings.codecs)

  def length(self, samples: int, rng: np.random.Generator) -> int:
    """Draw the length in samples of an augmented copy, as `__call__` does first."""
    return round(samples / (1 + self.settings.speed * rng.uniform(-1, 1)))

  def lengths(
    self, samples: Int[np.ndarray, ' n'], uniforms: Float[np.ndarray, ' n']
  ) -> Int[np.ndarray, ' n']:
    """Return what `length` draws for many utterances.

    uniforms: the first number in [0, 1) of each utterance's generator.
    """
    change = 1 + self.settings.speed * (-1 + 2 * uniforms)
    return np.rint(samples / change).astype(np.int64)

  def __call__(
    self,
    audio: Float[np.ndarray, ' samples'],
    rng: np.random.Generator,
    length: int | None = None,
    read_others: ReadOthers | None = None,
  ) -> Float[np.ndarray, ' changed']:
    """Return an augmented copy, in [-1, 1].

    length: of the copy in samples, if `length` has drawn it already. read_others: other
    utterances for the babble; None for no babble.
    """
    settings = self.settings
    room_rng, noise_rng, device_rng = rng.spawn(3)
    if length is None:
      length = self.length(len(audio), rng)
    audio = soxr.resample(audio, SAMPLE_RATE * len(audio) / length, SAMPLE_RATE)
    if rng.random() < settings.telephone_share:
      narrow = soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE // 2)
      audio = soxr.resample(narrow, SAMPLE_RATE // 2, SAMPLE_RATE)
    # The resampler may be off by a sample, but batches are planned with exact lengths.
    audio = np.pad(audio, (0, max(0, length - len(audio))))[:length]
    if room_rng.random() < settings.reverberation_share:
      audio = reverberate(audio, random_response(room_rng))
    noises = self._draw_noises(audio, noise_rng, read_others)
    if rng.random() < settings.noise_share:
      audio = audio + coloured_noise(audio, rng.uniform(*settings.noise_snr), rng)
    for noise in noises:
      audio = audio + noise
    audio = self._transmit(audio, device_rng)
    return np.clip(audio * rng.uniform(*settings.gain), -1, 1).astype(np.float32)

  def _draw_noises(
    self,
    speech: Float[np.ndarray, ' samples'],
    rng: np.random.Generator,
    read_others: ReadOthers | None,
  ) -> list[Float[np.ndarray, ' samples']]:
    """Return babble, music and recorded noise, each at a level of its own."""
    settings, length = self.settings, len(speech)
    noises = []
    babble_rng, music_rng, recorded_rng = rng.spawn(3)
    if babble_rng.random() < settings.babble_share and read_others is not None:
      snr = babble_rng.uniform(*settings.noise_snr)
      others = read_others(babble_rng)
      noises.append(scale_noise(speech, babble(length, others, babble_rng), snr))
    if music_rng.random() < settings.music_share:
      snr = music_rng.uniform(*settings.noise_snr)
      noises.append(scale_noise(speech, music(length, music_rng), snr))
    if recorded_rng.random() < settings.recorded_share and self._recorded is not None:
      snr = recorded_rng.uniform(*settings.noise_snr)
      excerpt = self._recorded.draw(length, recorded_rng)
      if excerpt is not None:
        noises.append(scale_noise(speech, loop(excerpt, length), snr))
    return noises

  def _transmit(
    self, audio: Float[np.ndarray, ' samples'], rng: np.random.Generator
  ) -> Float[np.ndarray, ' samples']:
    """Apply clipping, a telephone line and a codec."""
    settings = self.settings
    clipping_rng, line_rng, codec_rng = rng.spawn(3)
    if clipping_rng.random() < settings.clipping_share:
      audio = clip(audio, clipping_rng)
    if line_rng.random() < settings.line_share:
      audio = telephone_line(audio, bool(line_rng.random() < settings.mu_law_share))
    if codec_rng.random() < settings.codec_share:
      name = settings.codecs[codec_rng.integers(len(settings.codecs))]
      audio = apply_codec(audio, name, codec_rng)
    return audio


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
