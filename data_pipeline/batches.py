# SPDX-License-Identifier: Apache-2.0
"""Batches of fixed shapes: recordings of like length together, prompts laid out.

Which recordings stand in batch number `step` depends on (seed, step) alone.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Segment = tuple[int, ...] | int  # token ids, or the number of an audio clip
NO_AUDIO = -1


class Batch(NamedTuple):
  """Which recordings, and the shape they are padded to."""

  indices: tuple[int, ...]
  rows: int
  length: int  # of every row
  epoch: int = 0

  @property
  def recordings(self) -> tuple[tuple[int], ...]:
    """Those of every row, as in `packing.PackedBatch`: one."""
    return tuple((index,) for index in self.indices)

  @property
  def clips(self) -> int:
    """Recordings that a batch may have."""
    return self.rows

  @property
  def longest(self) -> int:
    """Of them."""
    return self.length


class Buckets(Sequence[Batch]):
  """An endless order of batches; nothing is dropped, and the last batch of a bucket may
  have empty rows.

  lengths: of every recording. buckets: the lengths that rows are padded to.
  budget: what a batch may hold in all, rows times length.
  """

  def __init__(
    self,
    lengths: Sequence[int] | np.ndarray,
    buckets: Sequence[int] | np.ndarray,
    budget: int,
    seed: int,
  ):
    if max(buckets) > budget:
      raise ValueError(f'the budget of {budget} holds no row of {max(buckets)}')
    self.lengths = np.asarray(lengths)
    self.buckets = np.sort(np.asarray(buckets))
    self.budget = budget
    self.seed = seed
    self.bucket = np.searchsorted(self.buckets, self.lengths)
    self.too_long = np.flatnonzero(self.bucket == len(self.buckets))
    self.rows = budget // self.buckets
    self.longest = int(self.buckets[-1])
    counts = np.bincount(self.bucket, minlength=len(self.buckets))[: len(self.buckets)]
    self.steps_per_epoch = int(np.sum(-(-counts // self.rows)))
    if self.steps_per_epoch == 0:
      raise ValueError(f'none of {len(lengths)} recordings fits in {self.buckets[-1]}')

  def __len__(self) -> int:
    return 1 << 40

  def __getitem__(self, step: int) -> Batch:
    epoch, place = divmod(step, self.steps_per_epoch)
    return self._epoch(epoch)[place]

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _epoch(self, epoch: int) -> list[Batch]:
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(len(self.lengths))
    batches = []
    for b, (length, rows) in enumerate(zip(self.buckets, self.rows, strict=True)):
      members = order[self.bucket[order] == b].tolist()
      cuts = range(0, len(members), rows)
      batches += [
        Batch(tuple(members[i : i + rows]), int(rows), int(length), epoch) for i in cuts
      ]
    return [batches[i] for i in rng.permutation(len(batches))]


class Row(NamedTuple):
  """One prompt, laid out; see `acl_jax.models.speech_llm.Prompt`."""

  tokens: list[int]
  place: list[int]


def lay_out(prompt: Sequence[Segment], first_clip: int, slots: int) -> Row:
  """A row of tokens and audio places, `slots` for each clip.

  first_clip: the number, in the batch, of this prompt's clip 0.
  """
  tokens: list[int] = []
  place: list[int] = []
  for segment in prompt:
    if isinstance(segment, int):
      start = (first_clip + segment) * slots
      tokens += [0] * slots
      place += range(start, start + slots)
    else:
      tokens += segment
      place += [NO_AUDIO] * len(segment)
  return Row(tokens, place)


def round_up(number: int, step: int) -> int:
  """The next multiple of `step`, at least one."""
  return max(1, -(-number // step)) * step


def pad(
  sequences: Sequence[Sequence], shape: tuple[int, ...], fill, dtype
) -> np.ndarray:
  """Sequences as rows of an array, filled up behind; ValueError if one is too long."""
  array = np.full(shape, fill, dtype)
  for row, sequence in zip(array, sequences, strict=False):
    if len(sequence) > len(row):
      raise ValueError(f'a sequence of {len(sequence)} does not fit in {len(row)}')
    row[: len(sequence)] = sequence
  return array


def pad_frames(
  recordings: Sequence[np.ndarray], rows: int, length: int
) -> tuple[Float[np.ndarray, 'b t d'], Bool[np.ndarray, 'b t']]:
  """Recordings as rows of `length` frames, zeros behind them, and which are signal."""
  padded = np.zeros((rows, length, recordings[0].shape[1]), np.float32)
  valid = np.zeros((rows, length), bool)
  for row, seen, frames in zip(padded, valid, recordings, strict=False):
    row[: len(frames)], seen[: len(frames)] = frames, True
  return padded, valid
