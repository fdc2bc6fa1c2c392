# SPDX-License-Identifier: Apache-2.0
"""What a batch holds, and its arrays: recordings laid side by side, prompts laid out.

`buckets` and `packing` decide which recordings a batch has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from acl_jax.runtime.rounding import round_up

NO_FRAME = -1


class BatchPlan(NamedTuple):
  """Which recordings stand in every row, in order; rows behind them are empty.

  length: encoder frames of a row. longest: of a recording at most. per_row: how many
  recordings a row may have, so that all batches have the same shapes. whole: all
  recordings of the batch that this is a share of.
  """

  utterances: tuple[tuple[int, ...], ...]
  rows: int
  length: int
  longest: int
  per_row: int = 1
  epoch: int = 0
  all_utterances: tuple[int, ...] = ()

  @property
  def indices(self) -> list[int]:
    """All recordings."""
    return [index for row in self.utterances for index in row]

  def share(self, parts: Sequence[int], total: int) -> 'BatchPlan':
    """The rows of some of `total` equal parts, with empty rows if they are not equal.

    So the batches of a step hold the same recordings, however many devices there are.
    """
    size = -(-self.rows // total)
    rows = [*self.utterances, *[()] * (size * total - len(self.utterances))]
    mine = tuple(row for part in parts for row in rows[part * size : (part + 1) * size])
    return self._replace(
      utterances=mine, rows=size * len(parts), all_utterances=tuple(self.indices)
    )


class PackedFrames(NamedTuple):
  """Recordings side by side in rows.

  segment_ids: from 1 in every row; 0 is padding. frame_index: the indices in its row of
  each utterance's encoder frames, then `NO_FRAME`.
  """

  frames: Float[np.ndarray, 'b t d']
  segment_ids: Int[np.ndarray, 'b t']
  frame_index: Int[np.ndarray, 'b k u']


def pack_rows(
  rows: Sequence[Sequence[np.ndarray]],
  batch: BatchPlan,
  width: int,
  subsampling: int = 1,
) -> PackedFrames:
  """Recordings [t width] of every row, each from where an encoder frame begins.

  subsampling: how many of these frames an encoder frame has. ValueError if a row's do
  not fit.
  """
  shape = batch.rows, batch.length * subsampling
  laid = PackedFrames(
    np.zeros((*shape, width), np.float32),
    np.zeros(shape, np.int32),
    np.full((batch.rows, batch.per_row, batch.longest), NO_FRAME, np.int32),
  )
  for b, row in enumerate(rows):
    start = 0
    for k, frames in enumerate(row):
      stop = start + len(frames)
      if stop > shape[1]:
        raise ValueError(f'row {b} needs {stop} frames and has {shape[1]}')
      laid.frames[b, start:stop], laid.segment_ids[b, start:stop] = frames, k + 1
      first, start = start // subsampling, round_up(stop, subsampling)
      encoded = np.arange(first, start // subsampling)
      laid.frame_index[b, k, : len(encoded)] = encoded
  return laid


def pad_per_utterance(
  rows: Sequence[Sequence[Sequence]], batch: BatchPlan, width: int, fill, dtype
) -> Shaped[np.ndarray, 'b k width']:
  """A sequence for each recording of every row, filled up behind."""
  array = np.full((batch.rows, batch.per_row, width), fill, dtype)
  for laid, row in zip(array, rows, strict=False):
    laid[: len(row)] = pad(row, (len(row), width), fill, dtype)
  return array


def pad_frames(
  recordings: Sequence[np.ndarray], rows: int, length: int
) -> tuple[Float[np.ndarray, 'b t d'], Bool[np.ndarray, 'b t']]:
  """Recordings as rows of `length` frames, zeros behind them, and which are signal."""
  alone = tuple((i,) for i in range(len(recordings)))
  batch = BatchPlan(alone, rows, length, length)
  laid = pack_rows([[r] for r in recordings], batch, recordings[0].shape[1])
  return laid.frames, laid.segment_ids > 0


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
