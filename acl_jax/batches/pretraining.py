# SPDX-License-Identifier: Apache-2.0
"""The batches of CTC pretraining: log-mel frames and transcripts as CTC classes."""

import numpy as np
from absl import logging

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.batches.ctc import min_frames
from acl_jax.batches.log_mels import LogMelCorpus, load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from acl_jax.text.ctc_vocabulary import Vocabulary
from data_pipeline.batches import BatchPlan, pad_per_utterance

MAX_LOGGED = 10  # reasons of examples left out that are told in full


class PretrainBatches:
  """Assembles `Transcribed`; what CTC cannot learn has no place in any batch.

  letters_per_frame: how many frames of letters an encoder frame has; 0 is no letters.
  """

  def __init__(
    self, source: LogMelCorpus, vocabulary: Vocabulary, letters_per_frame: int = 0
  ):
    self.source, self.letters_per_frame = source, letters_per_frame
    known: dict[str, list[int]] = {}  # of each text, as copies share theirs
    reasons: dict[str, str] = {}
    for id, text in zip(source.ids, source.texts, strict=True):
      if text not in known:
        try:
          # Ours begin with the blank, theirs end with it.
          known[text] = [piece + 1 for piece in vocabulary.encode(text)]
          if not known[text]:
            reasons[id] = 'its transcript has neither letters nor digits'
        except ValueError as error:
          known[text], reasons[id] = [], str(error)
    self.labels = [known[text] for text in source.texts]
    spelt = {text: encode_letters(text) if letters_per_frame else [] for text in known}
    self.letters = [spelt[text] for text in source.texts]
    self.lengths = self._places(reasons)
    for id in list(reasons)[:MAX_LOGGED]:
      logging.warning('%s is left out: %s', id, reasons[id])

  def _places(self, reasons: dict[str, str]) -> np.ndarray:
    """Frames of every recording, `NO_PLACE` where there is nothing to learn."""
    lengths = self.source.lengths.copy()
    for i, length in enumerate(self.source.lengths):
      for what, labels, frames in (
        ('pieces', self.labels[i], length),
        ('letters', self.letters[i], length * self.letters_per_frame),
      ):
        if (needed := min_frames(labels)) > frames:
          reasons[self.source.ids[i]] = (
            f'CTC needs {needed} frames to write its {len(labels)} {what}; it has'
            f' {frames}'
          )
          lengths[i] = TOO_LONG
      if not self.labels[i]:
        lengths[i] = TOO_LONG
    return lengths

  def __call__(self, batch: BatchPlan) -> PretrainBatch:
    batch, laid = load_packed(self.source, batch)
    labels, letters = (
      pad_per_utterance(
        [[of[i] for i in row] for row in batch.utterances],
        *(batch, width, BLANK, np.int32),
      )
      for of, width in (
        (self.labels, batch.longest),
        (self.letters, batch.longest * self.letters_per_frame),
      )
    )
    return PretrainBatch._make((*laid, labels, letters))
