# SPDX-License-Identifier: Apache-2.0
"""Batches of CTC pretraining: log-mel frames and transcripts as CTC classes."""

import numpy as np
from absl import logging

from acl_jax.batches.arrays import PretrainBatch
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.source import SpeechSource
from acl_jax.batches.token_tables import min_frames
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from data_pipeline.batches import BatchPlan, pad_per_utterance

MAX_LOGGED = 10  # utterances that are logged with the reason why they are left out


class PretrainBatchAssembler:
  """Assembles `PretrainBatch`es; utterances that CTC cannot learn are left out.

  tokens: of the transcripts, from `Vocabulary.encode`. lengths: encoder frames of each
  utterance, `TOO_LONG` if it is left out. letters_per_frame: letter frames per encoder
  frame; 0: no letters.
  """

  def __init__(
    self, source: SpeechSource, tokens: CorpusTokens, letters_per_frame: int = 0
  ):
    self.source, self.tokens = source, tokens
    self.letters_per_frame = letters_per_frame
    frames = source.lengths
    letters = tokens.letters if letters_per_frame else np.zeros_like(frames)
    unlearnable = (tokens.need > frames) | (letters > frames * letters_per_frame)
    unlearnable |= tokens.need == 0  # nothing to learn, or refused
    self.lengths = np.where(unlearnable, TOO_LONG, frames)
    for index in np.flatnonzero(unlearnable)[:MAX_LOGGED].tolist():
      reason = self._reason(index)
      logging.warning('%s is left out: %s', source.ids[index], reason)

  def _reason(self, index: int) -> str:
    """Return why an utterance is left out."""
    text, length = self.source.texts[index], int(self.source.lengths[index])
    try:
      pieces = self.tokens.encode(text)
    except ValueError as error:
      return str(error)
    if not pieces:
      return 'its transcript has neither letters nor digits'
    required, count, unit, frames = (
      int(self.tokens.need[index]),
      len(pieces),
      'pieces',
      length,
    )
    if required <= length:
      letters = encode_letters(text)
      required, count, unit = min_frames(letters), len(letters), 'letters'
      frames = length * self.letters_per_frame
    return f'CTC needs {required} frames for its {count} {unit}; it has {frames}'

  def __call__(self, plan: BatchPlan) -> PretrainBatch:
    """Load and assemble a batch, without the utterances that cannot be read."""
    plan, packed = load_packed(self.source, plan)
    labels = pad_per_utterance(
      # Class 0 is the blank here; in the vocabulary it is the last.
      [[self.tokens[i] + 1 for i in row] for row in plan.utterances],
      plan,
      plan.max_frames,
      BLANK,
      np.int32,
    )
    letters = pad_per_utterance(
      [[self._letters(i) for i in row] for row in plan.utterances],
      plan,
      plan.max_frames * self.letters_per_frame,
      BLANK,
      np.int32,
    )
    return PretrainBatch._make((*packed, labels, letters))

  def _letters(self, utterance: int) -> list[int]:
    if not self.letters_per_frame:
      return []
    return encode_letters(self.source.texts[utterance])
