# SPDX-License-Identifier: Apache-2.0
"""Batches of the CTC stage: utterances with their transcripts."""

from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from acl_jax.batches.arrays import AudioBatch
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.source import SpeechSource
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from data_pipeline.batches import BatchPlan, PackedFrames, pad_per_utterance

MAX_LOGGED = 10  # utterances that are logged with the reason why they are left out


class CTCLabels:
  """Transcripts as CTC classes over the tokens that occur in a corpus."""

  def __init__(self, vocabulary: Sequence[int]):
    self.vocabulary = list(vocabulary)
    self._classes = np.zeros(max(self.vocabulary, default=-1) + 1, np.int32)
    self._classes[self.vocabulary] = np.arange(len(self.vocabulary)) + 1

  @classmethod
  def of_corpus(cls, tokens: CorpusTokens) -> 'CTCLabels':
    """Return the labels of the tokens that occur in a corpus."""
    return cls(np.flatnonzero(tokens.counts).tolist())

  def log_prior(self, tokens: CorpusTokens) -> Float[np.ndarray, ' c']:
    """Return the log-frequency of each class in a corpus, with add-one smoothing.

    The blank has probability 1/2.
    """
    occurring = tokens.counts
    counts = np.ones(len(self.vocabulary) + 1)
    size = min(len(occurring), len(self._classes))
    np.add.at(counts, self._classes[:size], occurring[:size])
    counts[BLANK] = counts[1:].sum()
    return np.log(counts / counts.sum()).astype(np.float32)

  def __call__(self, tokens: Int[np.ndarray, ' n']) -> Int[np.ndarray, ' k']:
    """Return the classes of a transcript; unknown tokens are dropped."""
    classes = self._classes[tokens[tokens < len(self._classes)]]
    return classes[classes > 0]

  @property
  def known(self) -> Bool[np.ndarray, ' v']:
    """Which tokens have a class."""
    return self._classes > 0


class CTCBatchAssembler:
  """Assembles the batches of the CTC stage.

  tokens: of the transcripts; those that were refused are left out and logged. stack:
  encoder frames per adapter frame. sampled_classes: number of classes in a batch's
  softmax, besides the blank. with_letters: whether the adapter also recognises letters.
  """

  def __init__(
    self,
    source: SpeechSource,
    labels: CTCLabels,
    tokens: CorpusTokens,
    stack: int,
    sampled_classes: int,
    with_letters: bool,
  ):
    self.source, self.labels, self.tokens = source, labels, tokens
    self.stack, self.with_letters = stack, with_letters
    self._log_refused()
    self.vocabulary_size = len(labels.vocabulary)
    self.sampled_classes = min(sampled_classes, self.vocabulary_size)

  def _log_refused(self) -> None:
    refused = np.flatnonzero(self.tokens.refused)
    if len(refused):
      total = len(self.source)
      logging.warning('%d of %d transcripts cannot be used', len(refused), total)
    for index in map(int, refused[:MAX_LOGGED]):
      try:
        self.tokens.encode(self.source.texts[index])
      except ValueError as error:
        logging.warning('%s is left out: %s', self.source.ids[index], error)

  def lengths(self) -> Int[np.ndarray, ' n']:
    """Return every utterance's encoder frames.

    They are `TOO_LONG` if CTC needs more, or if the transcript cannot be used.
    """
    lengths = self.source.lengths
    fits = ~self.tokens.refused
    fits &= self.tokens.need_without(self.labels.known) <= -(-lengths // self.stack)
    if self.with_letters:
      fits &= self.tokens.letters <= -(-lengths // max(self.stack // 2, 1))
    return np.where(fits, lengths, TOO_LONG)

  def __call__(self, plan: BatchPlan) -> AudioBatch:
    """Load and assemble a batch, without the utterances that cannot be read."""
    return self.assemble(*load_packed(self.source, plan))

  def assemble(self, plan: BatchPlan, packed: PackedFrames) -> AudioBatch:
    """Add the labels to the packed frames of a batch."""
    everyone = plan.all_utterances or plan.indices  # the same on every host
    classes = {i: self.labels(self.tokens[i]) for i in {*everyone, *plan.indices}}
    candidates, correction = self._sample_classes(
      [classes[i] for i in everyone], np.random.default_rng(everyone)
    )
    class_of = np.zeros(self.vocabulary_size + 1, np.int32)
    class_of[candidates + 1] = np.arange(len(candidates)) + 1
    width = self.num_embeddings(plan.max_frames)
    labels = pad_per_utterance(
      [[class_of[classes[i]] for i in row] for row in plan.utterances],
      plan,
      width,
      BLANK,
      np.int32,
    )
    letters = pad_per_utterance(
      [[self._letters(i) for i in row] for row in plan.utterances],
      plan,
      2 * width,
      BLANK,
      np.int32,
    )
    return AudioBatch._make((*packed, labels, letters, candidates, correction))

  def _letters(self, utterance: int) -> list[int]:
    if not self.with_letters:
      return []
    return encode_letters(self.source.texts[utterance])

  def num_embeddings(self, num_frames: int) -> int:
    """Return the number of adapter embeddings of `num_frames` encoder frames."""
    return -(-num_frames // self.stack)

  def _sample_classes(
    self, labels: Sequence[Int[np.ndarray, ' _']], rng: np.random.Generator
  ) -> tuple[Int[np.ndarray, ' w'], Float[np.ndarray, ' c']]:
    """Return the classes of the batch's softmax and the correction of their logits.

    They are the batch's own tokens and a uniform sample of the others. Each sampled one
    stands for several, so that the sum over the sample is an unbiased estimate of the
    sum over all.
    """
    own = np.unique(np.concatenate([np.empty(0, np.int32), *labels])) - 1
    if len(own) > self.sampled_classes:
      raise ValueError(
        f'a batch has {len(own)} different tokens; the limit is'
        f' config.ctc.sampled_classes = {self.sampled_classes}. Raise it or reduce'
        ' frames_per_batch'
      )
    others = np.setdiff1d(np.arange(self.vocabulary_size), own)
    num_sampled = self.sampled_classes - len(own)
    sampled = rng.permutation(others)[:num_sampled]
    candidates = np.concatenate([own, sampled]).astype(np.int32)
    correction = np.zeros(len(candidates) + 1, np.float32)
    if num_sampled:
      correction[len(own) + 1 :] = np.log(len(others) / num_sampled)
    return candidates, correction
