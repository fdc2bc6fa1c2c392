# SPDX-License-Identifier: Apache-2.0
"""The two stages' batches: recordings with transcripts, recordings with responses."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from acl_jax.assembly import Text
from acl_jax.decoding.targets import Targets
from acl_jax.models.ctc import BLANK
from acl_jax.models.speech_llm import Prompt
from acl_jax.models.spelling import sounded
from acl_jax.training.log_mels import read_side_by_side
from acl_jax.training.orders import NO_PLACE
from acl_jax.training.step import Response, Sound
from data_pipeline.batches import (
  NO_AUDIO,
  Batch,
  Laid,
  Segment,
  lay_out,
  pad_each,
  round_up,
)

MULTIPLE = 8  # a row's length is a multiple of it
UNLIKELY = -30.0  # log-probability of what the teacher does not name


class Labels:
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


def frames_needed(labels: Sequence[int]) -> int:
  """The fewest frames that CTC can write labels in: a repeat needs a blank between."""
  return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


def split_prefix(
  prompt: Sequence[Segment],
) -> tuple[tuple[int, ...], Sequence[Segment]]:
  """The tokens before the first recording, and the rest of the prompt."""
  first, *rest = prompt
  return ((), prompt) if isinstance(first, int) else (tuple(first), rest)


class SoundBatches:
  """Assembles the CTC stage's batches.

  source: `frames.Frames`, or `log_mels.LogMels` for an encoder that trains.
  sampled_classes: how wide a batch's softmax is; at most the vocabulary.
  spelt: whether the adapter recognises letters, too.
  """

  def __init__(
    self,
    source,
    labels: Labels,
    encode: Callable[[str], list[int]],
    stack: int,
    sampled_classes: int,
    spelt: bool,
  ):
    self.source, self.stack = source, stack
    self.labels = [labels(encode(text)) for text in source.texts]
    self.letters = [sounded(text) if spelt else [] for text in source.texts]
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
      needed = np.asarray([frames_needed(row) for row in labels])
      fits &= needed <= -(-lengths // stack)
    return np.where(fits, lengths, NO_PLACE)

  def __call__(self, batch: Batch) -> Sound:
    return self.sound(*read_side_by_side(self.source, batch))

  def sound(self, batch: Batch, laid: Laid) -> Sound:
    """The recordings of a batch, already read, and their labels."""
    labels = [self.labels[i] for i in batch.indices]
    among, correction = self._sample(labels, np.random.default_rng(batch.indices))
    class_of = {int(entry) + 1: i + 1 for i, entry in enumerate(among)}
    slots = self.slots(batch.longest)
    labels, letters = (
      pad_each(
        [[of(i) for i in row] for row in batch.recordings],
        *(batch, width, BLANK, np.int32),
      )
      for of, width in (
        (lambda i: [class_of[label] for label in self.labels[i]], slots),
        (lambda i: self.letters[i], 2 * slots),
      )
    )
    return Sound._make((*laid, labels, letters, among, correction))

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
    among = np.concatenate([own, rng.permutation(others)[:drawn]]).astype(np.int32)
    if len(among) > self.sampled_classes:
      raise ValueError(
        f'a batch holds {len(own)} different tokens; config.ctc.sampled_classes is'
        f' {self.sampled_classes}'
      )
    correction = np.zeros(len(among) + 1, np.float32)
    if drawn:
      correction[len(own) + 1 :] = np.log(len(others) / drawn)
    return among, correction


class ResponseBatches:
  """Assembles the response stage's batches: recordings, prompts and their responses.

  top_k: how many of the teacher's likeliest tokens to read at each target; 0 is none.
  row_tokens: of a row of packed prompts; without it a row is as long as it must be.
  """

  def __init__(
    self,
    sounds: SoundBatches,
    text: Text,
    targets: Targets,
    top_k: int,
    row_tokens: int | None = None,
  ):
    self.sounds, self.targets, self.top_k = sounds, targets, top_k
    if (stored := targets.provenance['decoding']['top_k']) < top_k:
      raise ValueError(f'the targets hold {stored} tokens of the teacher, not {top_k}')
    self.prefix, self.prompt = split_prefix(text.spoken())
    self.max_response, self.row_tokens = targets.max_new_tokens, row_tokens

  def lengths(self) -> Int[np.ndarray, 'n 2']:
    """Encoder frames and LLM tokens of every recording; `NO_PLACE` without response."""
    source, frames = self.sounds.source, self.sounds.lengths()
    said = self.targets.lengths(source.ids)
    text = len(lay_out(self.prompt, [()]).tokens)
    tokens = -(-source.lengths // self.sounds.stack) + text + np.maximum(said - 1, 0)
    lengths = np.stack([frames, tokens], axis=1)
    return np.where((said > 0)[:, None], lengths, NO_PLACE)

  def row_length(self, batch: Batch) -> int:
    """The positions of a batch's rows; the prefix is in no row."""
    if self.row_tokens is not None:
      return self.row_tokens
    slots = range(self.sounds.slots(batch.longest))
    needed = len(lay_out(self.prompt, [slots]).tokens) + self.max_response
    return round_up(needed, MULTIPLE)

  def __call__(self, batch: Batch) -> tuple[Sound, Response]:
    batch, laid = read_side_by_side(self.sounds.source, batch)
    shape = batch.rows, self.row_length(batch)
    said = batch.rows, batch.per_row, self.max_response
    prompt = Prompt._make(np.full(shape, fill, np.int32) for fill in (0, NO_AUDIO, 0))
    response = Response._make(
      (
        np.asarray(self.prefix, np.int32),
        prompt,
        np.zeros(said, np.int32),
        np.zeros(said, np.int32),
        np.zeros(said, np.float32),
        np.zeros((*said, self.top_k), np.int32),
        np.full((*said, self.top_k), UNLIKELY, np.float16),
      )
    )
    slots = self.sounds.slots(batch.longest)
    for b, row in enumerate(batch.recordings):
      start = 0
      for k, i in enumerate(row):
        start = self._lay_out(response, (b, k), start, i, slots)
    return self.sounds.sound(batch, laid), response

  def _lay_out(
    self, response: Response, at: tuple[int, int], start: int, i: int, slots: int
  ) -> int:
    """Writes recording i's prompt and response from `start` of a row; returns its end.

    at: the row, and which of its recordings. slots: of a recording at most.
    """
    (b, k), source = at, self.sounds.source
    target = self.targets.read(source.ids[i], source.texts[i])
    answer = target['response']
    first = k * slots
    clip = range(first, first + self.sounds.slots(int(source.lengths[i])))
    row = lay_out(self.prompt, [clip])
    stop = start + len(row.tokens) + len(answer) - 1
    tokens, place, segment_ids = response.prompt
    tokens[b, start:stop] = [*row.tokens, *answer[:-1]]
    place[b, start : start + len(row.tokens)] = row.place
    segment_ids[b, start:stop] = k + 1
    u = len(answer)
    response.targets[b, k, :u] = answer
    response.index[b, k, :u] = start + len(row.tokens) - 1 + np.arange(u)
    response.weight[b, k, :u] = 1
    if self.top_k:
      response.top_ids[b, k, :u] = target['top_ids'][:, : self.top_k]
      response.top_log_probs[b, k, :u] = target['top_log_probs'][:, : self.top_k]
    return stop
