# SPDX-License-Identifier: Apache-2.0
"""What a batch holds, and its arrays: recordings laid side by side, prompts laid out.

`buckets` and `packing` decide which recordings a batch has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Segment = tuple[int, ...] | int  # token ids, or the number of an audio clip
NO_AUDIO = -1


class Batch(NamedTuple):
  """Which recordings stand in every row, in order; rows behind them are empty.

  length: encoder frames of a row. longest: of a recording at most. per_row: how many
  recordings a row may have, so that all batches have the same shapes. whole: all
  recordings of the batch that this is a share of.
  """

  recordings: tuple[tuple[int, ...], ...]
  rows: int
  length: int
  longest: int
  per_row: int = 1
  epoch: int = 0
  whole: tuple[int, ...] = ()

  @property
  def indices(self) -> list[int]:
    """All recordings."""
    return [index for row in self.recordings for index in row]

  def share(self, parts: Sequence[int], total: int) -> 'Batch':
    """The rows of some of `total` equal parts, with empty rows if they are not equal.

    So the batches of a step hold the same recordings, however many devices there are.
    """
    size = -(-self.rows // total)
    rows = [*self.recordings, *[()] * (size * total - len(self.recordings))]
    mine = tuple(row for part in parts for row in rows[part * size : (part + 1) * size])
    return self._replace(
      recordings=mine, rows=size * len(parts), whole=tuple(self.indices)
    )


class Laid(NamedTuple):
  """Recordings side by side in rows.

  segment_ids: count from 1 in every row, 0 is padding. place: where in its row the
  encoder frames of each recording are, `NO_AUDIO` behind them.
  """

  frames: Float[np.ndarray, 'b t d']
  segment_ids: Int[np.ndarray, 'b t']
  place: Int[np.ndarray, 'b k u']


def lay_side_by_side(
  rows: Sequence[Sequence[np.ndarray]], batch: Batch, width: int, subsampling: int = 1
) -> Laid:
  """Recordings [t width] of every row, each from where an encoder frame begins.

  subsampling: how many of these frames an encoder frame has. ValueError if a row's do
  not fit.
  """
  shape = batch.rows, batch.length * subsampling
  laid = Laid(
    np.zeros((*shape, width), np.float32),
    np.zeros(shape, np.int32),
    np.full((batch.rows, batch.per_row, batch.longest), NO_AUDIO, np.int32),
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
      laid.place[b, k, : len(encoded)] = encoded
  return laid


def pad_each(
  rows: Sequence[Sequence[Sequence]], batch: Batch, width: int, fill, dtype
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
  batch = Batch(alone, rows, length, length)
  laid = lay_side_by_side([[r] for r in recordings], batch, recordings[0].shape[1])
  return laid.frames, laid.segment_ids > 0


class Row(NamedTuple):
  """One prompt, laid out; see `acl_jax.models.speech_llm.Prompt`."""

  tokens: list[int]
  place: list[int]


def lay_out(prompt: Sequence[Segment], clips: Sequence[Sequence[int]]) -> Row:
  """Tokens and audio places; clips: where each one is in the audio of the row."""
  tokens: list[int] = []
  place: list[int] = []
  for segment in prompt:
    if isinstance(segment, int):
      tokens += [0] * len(clips[segment])
      place += clips[segment]
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
