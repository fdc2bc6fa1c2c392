# SPDX-License-Identifier: Apache-2.0
"""Batches of CTC pretraining: log-mel frames and transcripts as CTC classes."""

import numpy as np
from absl import logging
from jaxtyping import Int

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.batches.ctc import min_frames
from acl_jax.batches.log_mels import LogMelCorpus, load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from acl_jax.text.ctc_vocabulary import Vocabulary
from data_pipeline.batches import BatchPlan, pad_per_utterance

MAX_LOGGED = 10  # utterances that are logged with the reason why they are left out


class PretrainBatchAssembler:
  """Assembles `PretrainBatch`es; utterances that CTC cannot learn are left out.

  lengths: encoder frames of each utterance, `TOO_LONG` if it is left out.
  letters_per_frame: letter frames per encoder frame; 0: no letters.
  """

  def __init__(
    self, source: LogMelCorpus, vocabulary: Vocabulary, letters_per_frame: int = 0
  ):
    self.source, self.letters_per_frame = source, letters_per_frame
    labels: dict[str, list[int]] = {}  # by text, because copies share theirs
    reasons: dict[str, str] = {}  # by id
    for id, text in zip(source.ids, source.texts, strict=True):
      if text not in labels:
        try:
          # Class 0 is the blank here; in the vocabulary it is the last.
          labels[text] = [piece + 1 for piece in vocabulary.encode(text)]
          if not labels[text]:
            reasons[id] = 'its transcript has neither letters nor digits'
        except ValueError as error:
          labels[text], reasons[id] = [], str(error)
    self.labels = [labels[text] for text in source.texts]
    letters = {
      text: encode_letters(text) if letters_per_frame else [] for text in labels
    }
    self.letters = [letters[text] for text in source.texts]
    self.lengths = self._exclude_unlearnable(reasons)
    for id in list(reasons)[:MAX_LOGGED]:
      logging.warning('%s is left out: %s', id, reasons[id])

  def _exclude_unlearnable(self, reasons: dict[str, str]) -> Int[np.ndarray, ' n']:
    """Return `lengths`; adds the reasons of the utterances that are too short."""
    lengths = self.source.lengths.copy()
    for i, length in enumerate(self.source.lengths):
      for unit, labels, frames in (
        ('pieces', self.labels[i], length),
        ('letters', self.letters[i], length * self.letters_per_frame),
      ):
        if (required := min_frames(labels)) > frames:
          reasons[self.source.ids[i]] = (
            f'CTC needs {required} frames for its {len(labels)} {unit}; it has {frames}'
          )
          lengths[i] = TOO_LONG
      if not self.labels[i]:
        lengths[i] = TOO_LONG
    return lengths

  def __call__(self, plan: BatchPlan) -> PretrainBatch:
    """Load and assemble a batch, without the utterances that cannot be read."""
    plan, packed = load_packed(self.source, plan)
    labels = pad_per_utterance(
      [[self.labels[i] for i in row] for row in plan.utterances],
      plan,
      plan.max_frames,
      BLANK,
      np.int32,
    )
    letters = pad_per_utterance(
      [[self.letters[i] for i in row] for row in plan.utterances],
      plan,
      plan.max_frames * self.letters_per_frame,
      BLANK,
      np.int32,
    )
    return PretrainBatch._make((*packed, labels, letters))
