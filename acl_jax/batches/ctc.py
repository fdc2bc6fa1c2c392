# SPDX-License-Identifier: Apache-2.0
"""The CTC stage's batches: recordings with their transcripts."""

from collections.abc import Callable, Sequence

import numpy as np

from acl_jax.batches.arrays import AudioBatch
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from data_pipeline.batches import BatchPlan, PackedFrames, pad_per_utterance


class CTCLabels:
  """Transcripts as CTC classes over the tokens that occur in a corpus."""

  def __init__(self, vocabulary: Sequence[int]):
    self.vocabulary = list(vocabulary)
    self._class = {token: i + 1 for i, token in enumerate(self.vocabulary)}

  @classmethod
  def of_corpus(cls, texts: Sequence[str], encode: Callable[[str], list[int]]):
    return cls(sorted({token for text in texts for token in encode(text)}))

  def log_prior(self, texts: Sequence[str], encode) -> np.ndarray:
    """The logarithm of each class's share of frames, were half of them blank."""
    counts = np.ones(len(self.vocabulary) + 1)
    for text in texts:
      np.add.at(counts, self(encode(text)), 1)
    counts[BLANK] = counts[1:].sum()
    return np.log(counts / counts.sum()).astype(np.float32)

  def __call__(self, tokens: Sequence[int]) -> list[int]:
    """The classes of a transcript; a token that the vocabulary lacks is left out."""
    return [self._class[token] for token in tokens if token in self._class]


def min_frames(labels: Sequence[int]) -> int:
  """The fewest frames that CTC can write labels in: a repeat needs a blank between."""
  return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


class CTCBatches:
  """Assembles the CTC stage's batches.

  source: `frames.Frames`, or `log_mels.LogMels` for an encoder that trains.
  sampled_classes: how wide a batch's softmax is; at most the vocabulary.
  spelt: whether the adapter recognises letters, too.
  """

  def __init__(
    self,
    source,
    labels: CTCLabels,
    encode: Callable[[str], list[int]],
    stack: int,
    sampled_classes: int,
    spelt: bool,
  ):
    self.source, self.stack = source, stack
    self.labels = [labels(encode(text)) for text in source.texts]
    self.letters = [encode_letters(text) if spelt else [] for text in source.texts]
    self.vocabulary_size = len(labels.vocabulary)
    self.sampled_classes = min(sampled_classes, self.vocabulary_size)

  def lengths(self) -> np.ndarray:
    """Frames of every recording; `NO_PLACE` where its transcript needs more."""
    lengths = self.source.lengths
    fits = np.ones(len(lengths), bool)
    for labels, stack in (
      (self.labels, self.stack),
      (self.letters, max(self.stack // 2, 1)),
    ):
      needed = np.asarray([min_frames(row) for row in labels])
      fits &= needed <= -(-lengths // stack)
    return np.where(fits, lengths, TOO_LONG)

  def __call__(self, batch: BatchPlan) -> AudioBatch:
    return self.sound(*load_packed(self.source, batch))

  def sound(self, batch: BatchPlan, laid: PackedFrames) -> AudioBatch:
    """The recordings of a batch, already read, and their labels."""
    whole = batch.all_utterances or batch.indices  # all hosts draw the same
    labels = [self.labels[i] for i in whole]
    candidates, correction = self._sample(labels, np.random.default_rng(whole))
    class_of = {int(entry) + 1: i + 1 for i, entry in enumerate(candidates)}
    slots = self.slots(batch.longest)
    labels, letters = (
      pad_per_utterance(
        [[of(i) for i in row] for row in batch.utterances],
        *(batch, width, BLANK, np.int32),
      )
      for of, width in (
        (lambda i: [class_of[label] for label in self.labels[i]], slots),
        (lambda i: self.letters[i], 2 * slots),
      )
    )
    return AudioBatch._make((*laid, labels, letters, candidates, correction))

  def slots(self, frames: int) -> int:
    """The adapter's embeddings of so many encoder frames."""
    return -(-frames // self.stack)

  def _sample(self, labels: Sequence[Sequence[int]], rng: np.random.Generator):
    """The batch's own tokens and others drawn blindly, each standing for several.

    So the sum over the drawn ones estimates that over all without bias.
    """
    own = np.unique([label - 1 for row in labels for label in row])
    others = np.setdiff1d(np.arange(self.vocabulary_size), own)
    drawn = max(self.sampled_classes - len(own), 0)
    candidates = np.concatenate([own, rng.permutation(others)[:drawn]]).astype(np.int32)
    if len(candidates) > self.sampled_classes:
      raise ValueError(
        f'a batch holds {len(own)} different tokens; config.ctc.sampled_classes is'
        f' {self.sampled_classes}'
      )
    correction = np.zeros(len(candidates) + 1, np.float32)
    if drawn:
      correction[len(own) + 1 :] = np.log(len(others) / drawn)
    return candidates, correction
