# SPDX-License-Identifier: Apache-2.0
"""Batches of the CTC stage: utterances with their transcripts."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from acl_jax.batches.arrays import AudioBatch
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.source import SpeechSource
from acl_jax.models.ctc import BLANK
from acl_jax.models.spelling import encode_letters
from data_pipeline.batches import BatchPlan, PackedFrames, pad_per_utterance

MAX_LOGGED = 10  # utterances that are logged with the reason why they are left out
Encode = Callable[[str], list[int]]  # ValueError for a text that cannot be written


def encode_valid(texts: Iterable[str], encode: Encode) -> Iterator[list[int]]:
  """Yield the tokens of the texts that `encode` does not refuse."""
  for text in texts:
    with contextlib.suppress(ValueError):
      yield encode(text)


class CTCLabels:
  """Transcripts as CTC classes over the tokens that occur in a corpus."""

  def __init__(self, vocabulary: Sequence[int]):
    self.vocabulary = list(vocabulary)
    self._class = {token: i + 1 for i, token in enumerate(self.vocabulary)}

  @classmethod
  def of_corpus(cls, texts: Sequence[str], encode: Encode) -> 'CTCLabels':
    """Return the labels of the tokens that occur in `texts`."""
    tokens = itertools.chain.from_iterable(encode_valid(texts, encode))
    return cls(sorted(set(tokens)))

  def log_prior(self, texts: Sequence[str], encode: Encode) -> Float[np.ndarray, ' c']:
    """Return the log-frequency of each class, with add-one smoothing.

    The blank has probability 1/2.
    """
    counts = np.ones(len(self.vocabulary) + 1)
    for tokens in encode_valid(texts, encode):
      np.add.at(counts, self(tokens), 1)
    counts[BLANK] = counts[1:].sum()
    return np.log(counts / counts.sum()).astype(np.float32)

  def __call__(self, tokens: Sequence[int]) -> list[int]:
    """Return the classes of a transcript; unknown tokens are dropped."""
    return [self._class[token] for token in tokens if token in self._class]


def min_frames(labels: Sequence[int]) -> int:
  """Return the fewest frames for which CTC has an alignment of the labels.

  A repeated label needs a blank in between.
  """
  return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


class CTCBatchAssembler:
  """Assembles the batches of the CTC stage.

  encode: tokenizes a transcript; one that it refuses is left out and logged. stack:
  encoder frames per adapter frame. sampled_classes: number of classes in a batch's
  softmax, besides the blank. with_letters: whether the adapter also recognises letters.
  """

  def __init__(
    self,
    source: SpeechSource,
    labels: CTCLabels,
    encode: Encode,
    stack: int,
    sampled_classes: int,
    with_letters: bool,
  ):
    self.source, self.stack = source, stack
    self._refused: dict[int, str] = {}  # reasons
    self.labels: list[list[int]] = []
    for index, text in enumerate(source.texts):
      try:
        self.labels.append(labels(encode(text)))
      except ValueError as error:
        self.labels.append([])
        self._refused[index] = str(error)
    self._log_refused()
    self.letters = [
      encode_letters(text) if with_letters else [] for text in source.texts
    ]
    self.vocabulary_size = len(labels.vocabulary)
    self.sampled_classes = min(sampled_classes, self.vocabulary_size)

  def _log_refused(self) -> None:
    count, total = len(self._refused), len(self.source.texts)
    if count:
      logging.warning('%d of %d transcripts cannot be used', count, total)
    for index, reason in itertools.islice(self._refused.items(), MAX_LOGGED):
      logging.warning('%s is left out: %s', self.source.ids[index], reason)

  def lengths(self) -> Int[np.ndarray, ' n']:
    """Return every utterance's encoder frames.

    They are `TOO_LONG` if CTC needs more, or if the transcript cannot be used.
    """
    lengths = self.source.lengths
    fits = np.ones(len(lengths), bool)
    fits[[*self._refused]] = False
    for labels, stack in (
      (self.labels, self.stack),
      (self.letters, max(self.stack // 2, 1)),
    ):
      required = np.asarray([min_frames(sequence) for sequence in labels])
      fits &= required <= -(-lengths // stack)
    return np.where(fits, lengths, TOO_LONG)

  def __call__(self, plan: BatchPlan) -> AudioBatch:
    """Load and assemble a batch, without the utterances that cannot be read."""
    return self.assemble(*load_packed(self.source, plan))

  def assemble(self, plan: BatchPlan, packed: PackedFrames) -> AudioBatch:
    """Add the labels to the packed frames of a batch."""
    everyone = plan.all_utterances or plan.indices  # the same on every host
    candidates, correction = self._sample_classes(
      [self.labels[i] for i in everyone], np.random.default_rng(everyone)
    )
    class_of = {int(entry) + 1: i + 1 for i, entry in enumerate(candidates)}
    width = self.num_embeddings(plan.max_frames)
    labels = pad_per_utterance(
      [[[class_of[c] for c in self.labels[i]] for i in row] for row in plan.utterances],
      plan,
      width,
      BLANK,
      np.int32,
    )
    letters = pad_per_utterance(
      [[self.letters[i] for i in row] for row in plan.utterances],
      plan,
      2 * width,
      BLANK,
      np.int32,
    )
    return AudioBatch._make((*packed, labels, letters, candidates, correction))

  def num_embeddings(self, num_frames: int) -> int:
    """Return the number of adapter embeddings of `num_frames` encoder frames."""
    return -(-num_frames // self.stack)

  def _sample_classes(
    self, labels: Sequence[Sequence[int]], rng: np.random.Generator
  ) -> tuple[Int[np.ndarray, ' w'], Float[np.ndarray, ' c']]:
    """Return the classes of the batch's softmax and the correction of their logits.

    They are the batch's own tokens and a uniform sample of the others. Each sampled one
    stands for several, so that the sum over the sample is an unbiased estimate of the
    sum over all.
    """
    own = np.unique([label - 1 for sequence in labels for label in sequence])
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
