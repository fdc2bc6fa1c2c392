# SPDX-License-Identifier: Apache-2.0
"""A corpus as log-mel frames, with several augmented copies of each utterance.

An encoder that trains reads them at every step; a frozen one reads them once, see
`acl_jax.batches.encoded`.
"""

import contextlib
import functools
import operator
from collections.abc import Collection, Sequence
from typing import Any, SupportsIndex

import numpy as np
from absl import logging
from jaxtyping import Float, Int, UInt64

from acl_jax.batches.source import SpeechSource
from acl_jax.config.sections import AugmentationConfig
from acl_jax.models.conformer import ConformerConfig
from acl_jax.models.whisper import WhisperConfig
from data_pipeline.augment import Augmenter, mask_spectrogram
from data_pipeline.batches import BatchPlan, PackedFrames, pack_rows
from data_pipeline.container import RecordError
from data_pipeline.features import HOP, SAMPLE_RATE, WINDOW, Frontend
from data_pipeline.line_index import Lines
from data_pipeline.mixture import Corpora
from data_pipeline.noise import TALKERS
from data_pipeline.random_streams import first_uniforms
from data_pipeline.records import Dataset
from data_pipeline.strings import Picked

MAX_LOGGED = 10  # utterances of a copy that are logged as left out
MAX_BROKEN = 10  # unreadable records that a corpus of any size may have


class LogMelCorpus(Sequence[dict[str, Any]]):
  """Log-mel frames of every copy of every utterance; a `SpeechSource`.

  Of several copies the first is not augmented; a single copy is. The tempo of a copy is
  the same in every epoch, so that lengths are known in advance; all other augmentation
  is a function of (seed, copy, utterance, epoch).
  Utterances shorter than a window or longer than the encoder's limit are left out and
  logged.
  """

  frame_seconds = HOP / SAMPLE_RATE

  def __init__(
    self,
    dataset: Dataset | Corpora,
    encoder: ConformerConfig | WhisperConfig,
    augmentation: AugmentationConfig,
  ):
    self.encoder, self.augmentation = encoder, augmentation
    self.subsampling, self.width = encoder.subsampling, encoder.num_mel_bins
    self.broken: set[int] = set()
    self._augmenter = None
    if augmentation.augmentation is not None:
      self._augmenter = Augmenter(augmentation.augmentation)
    self._dataset, self._frontend = dataset, Frontend.of(encoder)
    is_one = isinstance(dataset, Dataset)
    self.files: Sequence[Lines] = [dataset.lines] if is_one else dataset.lines
    samples = np.rint(dataset.seconds.astype(np.float64) * SAMPLE_RATE).astype(np.int64)
    copies = [self._plan_copy(copy, samples) for copy in range(augmentation.copies)]
    self.copies, self.numbers, self._num_samples, self.lengths = (
      np.concatenate(arrays) for arrays in zip(*copies, strict=True)
    )
    self.ids: Sequence[str] = Picked(dataset.ids, self.numbers)
    self.texts: Sequence[str] = Picked(dataset.texts, self.numbers)
    self._check_others()

  def _plan_copy(
    self, copy: int, samples: Int[np.ndarray, ' n']
  ) -> tuple[Int[np.ndarray, ' k'], ...]:
    """Return the copies of the utterances whose length the encoder supports.

    samples: of the utterances. Returns for each: the number of the copy, the number of
    the utterance, its samples and its encoder frames.
    """
    samples = self._augmented_lengths(copy, samples)
    frames = self._frontend.num_frames(samples)
    fits = (samples >= WINDOW) & (frames <= self.encoder.max_frames)
    longest = self.encoder.max_frames - self._frontend.trailing_silence
    excluded, numbers = np.flatnonzero(~fits), np.flatnonzero(fits)
    for index in excluded[:MAX_LOGGED].tolist():
      logging.warning(
        '%s is left out: it has %.3f s; the limits are %.3f and %g s',
        self._dataset.ids[index],
        samples[index] / SAMPLE_RATE,
        WINDOW / SAMPLE_RATE,
        longest * HOP / SAMPLE_RATE,
      )
    if len(excluded) > MAX_LOGGED:
      logging.warning('%d more are left out likewise', len(excluded) - MAX_LOGGED)
    lengths = -(-frames[fits] // self.subsampling)
    arrays = numbers, samples[fits], lengths
    copies = np.full(len(numbers), copy, np.int16)
    return copies, *(array.astype(np.int32) for array in arrays)

  @property
  def id_hashes(self) -> UInt64[np.ndarray, ' n']:
    """The hash of every utterance's id."""
    hashes = [file.id_hashes for file in self.files]
    whole = hashes[0] if len(hashes) == 1 else np.concatenate(hashes)
    return whole[self.numbers]

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """Return id, text and frames, float32 [t m], of the first epoch."""
    return self.read([operator.index(index)])[0]

  def read(
    self, indices: Collection[SupportsIndex], epoch: int = 0
  ) -> list[dict[str, Any]]:
    """Return id, text and frames [t m] of each utterance, as augmented in an epoch."""
    positions = [operator.index(index) for index in indices]
    records = self._dataset.__getitems__(self.numbers[positions].tolist())
    return [
      {
        'id': record['id'],
        'text': record['text'],
        'frames': self._compute_frames(position, record['audio'], epoch),
      }
      for position, record in zip(positions, records, strict=True)
    ]

  def _compute_frames(
    self, position: int, waveform: Float[np.ndarray, ' samples'], epoch: int
  ) -> Float[np.ndarray, 't m']:
    config = self.augmentation
    copy, index = int(self.copies[position]), int(self.numbers[position])
    rng = np.random.default_rng([config.seed, copy, index, epoch])
    augmented = copy > 0 or config.copies == 1
    if augmented and self._augmenter is not None:
      samples = int(self._num_samples[position])
      read_others = functools.partial(self._read_others, index)
      waveform = self._augmenter(waveform, rng, samples, read_others)
    log_mel = self._frontend.log_mel(waveform)
    if augmented and config.masking is not None:
      log_mel = mask_spectrogram(log_mel, config.masking, rng)
    return log_mel

  def _augmented_lengths(
    self, copy: int, samples: Int[np.ndarray, ' n']
  ) -> Int[np.ndarray, ' n']:
    """Return the samples of a copy of utterances of `samples` samples."""
    config = self.augmentation
    if self._augmenter is None or (copy == 0 and config.copies > 1):
      return samples
    uniforms = first_uniforms([config.seed, copy], np.arange(len(samples)))
    return self._augmenter.lengths(samples, uniforms)

  def _read_others(
    self, index: int, rng: np.random.Generator
  ) -> list[Float[np.ndarray, '_']]:
    """Read random utterances of the corpus other than the one at `index`.

    Fewer, if some cannot be read: that is counted when they are read for themselves.
    """
    count, others = rng.integers(TALKERS[0], TALKERS[1] + 1), []
    for position in rng.integers(len(self), size=2 * count):
      other = int(self.numbers[position])
      if other == index or len(others) == count:
        continue
      with contextlib.suppress(RecordError):
        others.append(self._dataset.__getitems__([other])[0]['audio'])
    return others

  def _check_others(self) -> None:
    """Raise ValueError if babble is asked for and there is only one utterance."""
    settings = self.augmentation.augmentation
    if settings is None or not settings.babble_share:
      return
    if not len(self) or not np.ptp(self.numbers):
      raise ValueError(
        f'config.augmentation.babble_share is {settings.babble_share}, but the corpus'
        ' has fewer than 2 utterances; babble is made of others'
      )


def load_packed(
  source: SpeechSource, plan: BatchPlan
) -> tuple[BatchPlan, PackedFrames]:
  """Read and pack the utterances of a batch; returns the plan of those that were read.

  Unreadable utterances are left out and logged; RecordError if there are too many.
  """
  try:
    records = source.read(plan.indices, plan.epoch)
  except RecordError:
    plan, records = _load_readable(source, plan)
  frames = iter(record['frames'] for record in records)
  rows = [[next(frames) for _ in row] for row in plan.utterances]
  return plan, pack_rows(rows, plan, source.width, source.subsampling)


def _load_readable(
  source: SpeechSource, plan: BatchPlan
) -> tuple[BatchPlan, list[dict[str, Any]]]:
  records = {i: read_or_skip(source, i, plan.epoch) for i in plan.indices}
  readable = {i: record for i, record in records.items() if record}
  if records and not readable:
    raise RecordError(f'none of the {len(records)} utterances of a batch can be read')
  rows = (tuple(i for i in row if i in readable) for row in plan.utterances)
  return plan._replace(utterances=tuple(rows)), list(readable.values())


def read_or_skip(
  source: SpeechSource, index: int, epoch: int = 0
) -> dict[str, Any] | None:
  """Return an utterance; None if it cannot be read, which is logged and counted.

  RecordError if more than `MAX_BROKEN` of them and more than one in a thousand are
  unreadable.
  """
  try:
    return source.read([index], epoch)[0]
  except RecordError as error:
    source.broken.add(index)
    count, limit = len(source.broken), max(MAX_BROKEN, len(source) // 1_000)
    if count > limit:
      raise RecordError(
        f'{error}; {count} records cannot be read, the limit is {limit}'
      ) from None
    logging.warning('%s; left out, like %d others', error, count - 1)
    return None
