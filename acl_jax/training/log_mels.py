# SPDX-License-Identifier: Apache-2.0
"""A corpus as log-mel frames, each recording `copies` times, augmented differently.

An encoder that trains hears them in every step; a frozen one once, see `frames`.
"""

import operator
from collections.abc import Collection, Sequence
from typing import Any, SupportsIndex

import numpy as np
from absl import logging

from acl_jax.models import whisper
from data_pipeline.augment import Augmentation, augment, changed_length
from data_pipeline.features import HOP, SAMPLE_RATE, WINDOW, whisper_log_mel
from data_pipeline.records import Dataset


class LogMels(Sequence[dict[str, Any]]):
  """Log-mel frames: `.ids .texts .lengths` (encoder frames) of all, each by index.

  Copy 0 is the recording itself; the others are augmented, or all are if `copies` is 1.
  What is shorter than a frame or longer than the encoder hears is left out, and said.
  """

  subsampling = 2  # log-mel frames in an encoder frame

  def __init__(
    self,
    dataset: Dataset,
    encoder: whisper.Config,
    *,
    augmentation: Augmentation | None,
    copies: int,
    seed: int,
  ):
    self.encoder, self.seed, self.copies = encoder, seed, copies
    self._dataset, self._augmentation = dataset, augmentation
    limit = 2 * encoder.max_source_positions
    self._jobs, lengths = [], []
    for copy in range(copies):
      for index, seconds in enumerate(dataset.seconds):
        samples = round(float(seconds) * SAMPLE_RATE)
        if self._changes(copy):
          assert augmentation is not None
          samples = changed_length(samples, augmentation, self._rng(copy, index))
        if not WINDOW <= samples < (limit + 1) * HOP:
          logging.warning(
            '%s is left out: %.3f s, at least %.3f and at most %g',
            *(dataset.ids[index], samples / SAMPLE_RATE),
            *(WINDOW / SAMPLE_RATE, limit * HOP / SAMPLE_RATE),
          )
          continue
        self._jobs.append((copy, index))
        lengths.append(-(-(samples // HOP) // self.subsampling))
    self.ids = [dataset.ids[index] for _, index in self._jobs]
    self.texts = [dataset.texts[index] for _, index in self._jobs]
    self.lengths = np.asarray(lengths, np.int32)

  def __len__(self) -> int:
    return len(self._jobs)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """id, text, and frames: float32 [t m]."""
    return self.__getitems__([operator.index(index)])[0]

  def __getitems__(self, indices: Collection[SupportsIndex]) -> list[dict[str, Any]]:
    jobs = [self._jobs[operator.index(i)] for i in indices]
    found = self._dataset.__getitems__([index for _, index in jobs])
    return [
      {'id': u['id'], 'text': u['text'], 'frames': self._log_mel(job, u['audio'])}
      for job, u in zip(jobs, found, strict=True)
    ]

  def _log_mel(self, job: tuple[int, int], sound: np.ndarray) -> np.ndarray:
    if self._augmentation is not None and self._changes(job[0]):
      sound = augment(sound, self._augmentation, self._rng(*job))
    return whisper_log_mel(sound, self.encoder.num_mel_bins)

  def _changes(self, copy: int) -> bool:
    return self._augmentation is not None and (copy > 0 or self.copies == 1)

  def _rng(self, copy: int, index: int) -> np.random.Generator:
    return np.random.default_rng([self.seed, copy, index])
