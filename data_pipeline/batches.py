# SPDX-License-Identifier: Apache-2.0
"""Batches: which utterances they hold, and arrays of packed and padded rows.

`buckets` and `packing` choose the utterances of a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from acl_jax.runtime.rounding import round_up

NO_FRAME = -1

Values = Sequence | np.ndarray


class BatchPlan(NamedTuple):
  """Which utterances form a batch: their indices by row; further rows are empty.

  length: encoder frames of a row. max_frames: encoder frames of an utterance at most.
  max_per_row: utterances of a row at most; with max_frames it fixes the shapes of all
  batches. all_utterances: the utterances of all parts, if this plan is of some parts.
  """

  utterances: tuple[tuple[int, ...], ...]
  rows: int
  length: int
  max_frames: int
  max_per_row: int = 1
  epoch: int = 0
  all_utterances: tuple[int, ...] = ()

  @property
  def indices(self) -> list[int]:
    """The indices of all utterances."""
    return [index for row in self.utterances for index in row]

  def take_parts(self, parts: Sequence[int], total: int) -> 'BatchPlan':
    """Return the plan of some of `total` equal parts; empty rows fill up the last ones.

    The batch of a step thus holds the same utterances on any number of devices.
    """
    size = -(-self.rows // total)
    padded = [*self.utterances, *[()] * (size * total - len(self.utterances))]
    rows = [row for part in parts for row in padded[part * size : (part + 1) * size]]
    return self._replace(
      utterances=tuple(rows),
      rows=size * len(parts),
      all_utterances=tuple(self.indices),
    )


class PackedFrames(NamedTuple):
  """Utterances packed into rows.

  frames: features, 0 where padded. segment_ids: 1, 2, … for the utterances of a row; 0
  is padding. frame_index: the positions of each utterance's encoder frames in its row,
  padded with `NO_FRAME`.
  """

  frames: Float[np.ndarray, 'b t d']
  segment_ids: Int[np.ndarray, 'b t']
  frame_index: Int[np.ndarray, 'b k u']


def pack_rows(
  rows: Sequence[Sequence[np.ndarray]],
  plan: BatchPlan,
  width: int,
  subsampling: int = 1,
) -> PackedFrames:
  """Pack the features [t width] of each row's utterances.

  subsampling: frames per encoder frame; every utterance starts at a multiple of it.
  ValueError if the utterances of a row do not fit.
  """
  shape = plan.rows, plan.length * subsampling
  packed = PackedFrames(
    np.zeros((*shape, width), np.float32),
    np.zeros(shape, np.int32),
    np.full((plan.rows, plan.max_per_row, plan.max_frames), NO_FRAME, np.int32),
  )
  for b, row in enumerate(rows):
    start = 0
    for k, frames in enumerate(row):
      stop = start + len(frames)
      if stop > shape[1]:
        raise ValueError(f'row {b} has {stop} frames; the limit is {shape[1]}')
      packed.frames[b, start:stop] = frames
      packed.segment_ids[b, start:stop] = k + 1
      first, start = start // subsampling, round_up(stop, subsampling)
      encoder_frames = np.arange(first, start // subsampling)
      packed.frame_index[b, k, : len(encoder_frames)] = encoder_frames
  return packed


def pad_per_utterance(
  rows: Sequence[Sequence[Values]], plan: BatchPlan, width: int, fill, dtype
) -> Shaped[np.ndarray, 'b k width']:
  """Pad one sequence per utterance of every row with `fill` at the end."""
  array = np.full((plan.rows, plan.max_per_row, width), fill, dtype)
  for padded, row in zip(array, rows, strict=False):
    padded[: len(row)] = pad(row, (len(row), width), fill, dtype)
  return array


def pad_frames(
  utterances: Sequence[np.ndarray], rows: int, length: int
) -> tuple[Float[np.ndarray, 'b t d'], Bool[np.ndarray, 'b t']]:
  """Pad features [t d], one utterance a row, with zeros; returns frames and mask."""
  indices = tuple((i,) for i in range(len(utterances)))
  plan = BatchPlan(indices, rows, length, length)
  packed = pack_rows([[u] for u in utterances], plan, utterances[0].shape[1])
  return packed.frames, packed.segment_ids > 0


def pad(sequences: Sequence[Values], shape: tuple[int, ...], fill, dtype) -> np.ndarray:
  """Pad sequences with `fill` to an array of `shape`; ValueError if one is too long."""
  array = np.full(shape, fill, dtype)
  for row, sequence in zip(array, sequences, strict=False):
    if len(sequence) > len(row):
      raise ValueError(
        f'a sequence has {len(sequence)} elements; the limit is {len(row)}'
      )
    row[: len(sequence)] = sequence
  return array
