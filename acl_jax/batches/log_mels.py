# SPDX-License-Identifier: Apache-2.0
"""A corpus as log-mel frames, each recording `copies` times, augmented differently.

An encoder that trains hears them in every step; a frozen one once, see `frames`.
"""

import dataclasses
import operator
from collections.abc import Collection, Sequence
from typing import Any, SupportsIndex

import numpy as np
from absl import logging

from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.whisper import WhisperConfig
from data_pipeline.augment import Augmentation, Masking, augment, augmented_length, mask
from data_pipeline.batches import BatchPlan, PackedFrames, pack_rows
from data_pipeline.container import RecordError
from data_pipeline.features import HOP, SAMPLE_RATE, WINDOW, features
from data_pipeline.mixture import Corpora
from data_pipeline.records import Dataset

MAX_BROKEN = 10  # records that may be unreadable in any corpus


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
  """What is done to recordings, and to how many copies of each."""

  augmentation: Augmentation | None = None
  masking: Masking | None = None
  copies: int = 1
  seed: int = 0


class LogMelCorpus(Sequence[dict[str, Any]]):
  """Log-mel frames: `.ids .texts .lengths` (encoder frames) of all, each by index.

  Copy 0 is the recording itself; the others are augmented, or all are if `copies` is 1.
  The tempo of a copy is its own, so that lengths are known; all other changes depend on
  (seed, copy, recording, epoch).
  What is shorter than a frame or longer than the encoder hears is left out, and said.
  """

  frame_seconds = HOP / SAMPLE_RATE

  def __init__(
    self,
    dataset: Dataset | Corpora,
    encoder: ConformerConfig | WhisperConfig,
    how: AugmentationConfig,
  ):
    self.encoder, self.how, self.subsampling = encoder, how, encoder.subsampling
    self.width = encoder.num_mel_bins
    self.broken: set[int] = set()  # what could not be read so far
    self._dataset, self._features = dataset, features(encoder.features)
    self._jobs, self._samples, lengths = [], [], []
    limit = encoder.max_frames
    for copy in range(how.copies):
      for index, seconds in enumerate(dataset.seconds):
        samples = self._changed(copy, index, round(float(seconds) * SAMPLE_RATE))
        if samples < WINDOW or self._features.count(samples) > limit:
          logging.warning(
            '%s is left out: %.3f s, at least %.3f and at most %g',
            *(dataset.ids[index], samples / SAMPLE_RATE),
            *(WINDOW / SAMPLE_RATE, limit * HOP / SAMPLE_RATE),
          )
          continue
        self._jobs.append((copy, index))
        self._samples.append(samples)
        lengths.append(-(-self._features.count(samples) // self.subsampling))
    self.ids = [dataset.ids[index] for _, index in self._jobs]
    self.texts = [dataset.texts[index] for _, index in self._jobs]
    self.lengths = np.asarray(lengths, np.int32)

  def __len__(self) -> int:
    return len(self._jobs)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """id, text, and frames: float32 [t m]."""
    return self.read([operator.index(index)])[0]

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Many at once, as they are in an epoch."""
    places = [operator.index(index) for index in indices]
    found = self._dataset.__getitems__([self._jobs[place][1] for place in places])
    return [
      {'id': u['id'], 'text': u['text'], 'frames': self._hear(place, u['audio'], epoch)}
      for place, u in zip(places, found, strict=True)
    ]

  def _hear(self, place: int, sound: np.ndarray, epoch: int) -> np.ndarray:
    copy, index = self._jobs[place]
    rng = np.random.default_rng([self.how.seed, copy, index, epoch])
    changes = copy > 0 or self.how.copies == 1
    if changes and self.how.augmentation is not None:
      sound = augment(sound, self.how.augmentation, rng, self._samples[place])
    log_mel = self._features.log_mel(sound, self.encoder.num_mel_bins)
    if changes and self.how.masking is not None:
      log_mel = mask(log_mel, self.how.masking, rng)
    return log_mel

  def _changed(self, copy: int, index: int, samples: int) -> int:
    """How many samples a copy has."""
    how = self.how
    if how.augmentation is None or (copy == 0 and how.copies > 1):
      return samples
    rng = np.random.default_rng([how.seed, copy, index])
    return augmented_length(samples, how.augmentation, rng)


def load_packed(source, batch: BatchPlan) -> tuple[BatchPlan, PackedFrames]:
  """A batch and its recordings in rows; source: `LogMels`, or `frames.Frames`.

  What cannot be read is left out of it, and said. RecordError if that is too much.
  """
  try:
    found = source.read(batch.indices, batch.epoch)
  except RecordError:
    batch, found = _load_readable(source, batch)
  frames = iter(record['frames'] for record in found)
  rows = [[next(frames) for _ in row] for row in batch.utterances]
  return batch, pack_rows(rows, batch, source.width, source.subsampling)


def _load_readable(source, batch: BatchPlan) -> tuple[BatchPlan, list[dict[str, Any]]]:
  found = {i: read_or_skip(source, i, batch.epoch) for i in batch.indices}
  sound = {i: record for i, record in found.items() if record}
  if found and not sound:
    raise RecordError(f'none of the {len(found)} recordings of a batch can be read')
  rows = (tuple(i for i in row if i in sound) for row in batch.utterances)
  return batch._replace(utterances=tuple(rows)), list(sound.values())


def read_or_skip(source, index: int, epoch: int = 0) -> dict[str, Any] | None:
  """A recording, or None if it cannot be read, which is said and counted.

  RecordError if there are more of these than one in a thousand, and more than `BROKEN`.
  """
  try:
    return source.read([index], epoch)[0]
  except RecordError as error:
    source.broken.add(index)
    count, limit = len(source.broken), max(MAX_BROKEN, len(source) // 1_000)
    if count > limit:
      raise RecordError(f'{error}; {count} are broken, the limit is {limit}') from None
    logging.warning('%s; it is left out, as are %d others', error, count - 1)
    return None
