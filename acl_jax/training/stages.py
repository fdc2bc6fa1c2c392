# SPDX-License-Identifier: Apache-2.0
"""The two stages' batches: recordings with transcripts, recordings with responses."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from acl_jax.assembly import Text
from acl_jax.decoding.targets import Targets
from acl_jax.models.ctc import BLANK
from acl_jax.models.speech_llm import Prompt
from acl_jax.models.spelling import sounded
from acl_jax.training.step import Response, Sound
from data_pipeline.batches import NO_AUDIO, Batch, Segment, lay_out, pad, pad_frames

MULTIPLE = 8  # a row's length is a multiple of it
UNLIKELY = -30.0  # log-probability of what the teacher does not name
NO_PLACE = np.iinfo(np.int32).max  # length of a recording that no batch shall hold


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
    records = self.source.read(batch.indices, batch.epoch)
    length = batch.length * self.source.subsampling
    slots = -(-batch.length // self.stack)
    padded, valid = pad_frames([r['frames'] for r in records], batch.rows, length)
    labels = [self.labels[i] for i in batch.indices]
    among, correction = self._sample(labels, np.random.default_rng(batch.indices))
    place = {int(entry) + 1: i + 1 for i, entry in enumerate(among)}
    labels = [[place[label] for label in row] for row in labels]
    labels = pad(labels, (batch.rows, slots), BLANK, np.int32)
    letters = [self.letters[i] for i in batch.indices]
    letters = pad(letters, (batch.rows, 2 * slots), BLANK, np.int32)
    return Sound._make((padded, valid, labels, letters, among, correction))

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
  """Assembles the response stage's batches: one recording and its response a row.

  top_k: how many of the teacher's likeliest tokens to read at each target; 0 is none.
  """

  def __init__(self, sounds: SoundBatches, text: Text, targets: Targets, top_k: int):
    self.sounds, self.targets, self.top_k = sounds, targets, top_k
    if (stored := targets.provenance['decoding']['top_k']) < top_k:
      raise ValueError(f'the targets hold {stored} tokens of the teacher, not {top_k}')
    self.prefix, self.prompt = split_prefix(text.spoken())
    self.max_response = targets.max_new_tokens

  def __call__(self, batch: Batch) -> tuple[Sound, Response]:
    sound = self.sounds(batch)
    ids = [self.sounds.source.ids[i] for i in batch.indices]
    found = [self.targets[id] for id in ids]
    responses = [list(map(int, target['response'])) for target in found]
    return sound, self._lay_out(responses, found, batch.rows, sound.labels.shape[1])

  def row_length(self, slots: int) -> int:
    """The positions of a row whose clip has `slots`; the prefix is in no row."""
    needed = len(lay_out(self.prompt, 0, slots).tokens) + self.max_response
    return -(-needed // MULTIPLE) * MULTIPLE

  def _lay_out(self, responses, found, rows: int, slots: int) -> Response:
    laid = [lay_out(self.prompt, clip, slots) for clip in range(rows)]
    start, length = len(laid[0].tokens), self.row_length(slots)
    tokens = [
      row.tokens + response[:-1] for row, response in zip(laid, responses, strict=False)
    ]
    valid = (
      np.arange(length)
      < np.asarray([len(t) for t in tokens] + [0] * (rows - len(tokens)))[:, None]
    )
    places = [row.place for row in laid]
    prompt = (
      pad(tokens, (rows, length), 0, np.int32),
      pad(places, (rows, length), NO_AUDIO, np.int32),
      valid,
    )
    shape = (rows, self.max_response)
    index = np.broadcast_to(np.arange(self.max_response) + start - 1, shape)
    weight = (
      np.arange(self.max_response)
      < np.asarray([len(r) for r in responses] + [0] * (rows - len(responses)))[:, None]
    )
    return Response._make(
      (
        np.asarray(self.prefix, np.int32),
        Prompt._make(prompt),
        pad(responses, shape, 0, np.int32),
        index.astype(np.int32),
        weight.astype(np.float32),
        *self._teacher(found, shape),
      )
    )

  def _teacher(self, found: Sequence[dict[str, Any]], shape):
    ids = np.zeros((*shape, self.top_k), np.int32)
    log_probs = np.full((*shape, self.top_k), UNLIKELY, np.float16)
    for i, target in enumerate(found):
      if self.top_k:
        u = len(target['response'])
        ids[i, :u] = target['top_ids'][:, : self.top_k]
        log_probs[i, :u] = target['top_log_probs'][:, : self.top_k]
    return ids, log_probs
