# SPDX-License-Identifier: Apache-2.0
"""Several utterances per row, so that batches have hardly any padding.

Rows are packed once, by best fit, and shuffled every epoch. They are two flat arrays:
millions of tuples would take gigabytes. The batch of a step is thus
a function of (seed, step), computed without earlier batches.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from data_pipeline.batches import BatchPlan
from data_pipeline.best_fit import COMPILE_FROM, best_fit_decreasing

WINDOW = 1 << 14  # utterances packed at a time; bounds the number of open rows


class PackedOrder(Sequence[BatchPlan]):
  """An endless order of batches of packed rows, all of one shape; nothing is dropped.

  lengths: of every utterance, in each unit that limits a row, such as encoder frames
    and LLM tokens.
  limits: of a row in the same units; the first is the row length.
  rows: of a batch. An epoch's last batch may have empty rows.
  max_per_row: utterances of a row at most. max_frames: frames of an utterance at most.
    Both determine shapes; by default they are the largest that occur.
  Attributes: `too_long` are the indices of utterances over a limit.
  """

  def __init__(
    self,
    lengths: Int[np.ndarray, 'n units'],
    limits: Sequence[int],
    rows: int,
    seed: int,
    max_per_row: int | None = None,
    max_frames: int | None = None,
  ):
    self.rows, self.seed = rows, seed
    # The number of utterances is one more unit with a limit.
    self.limits = np.asarray([*limits, max_per_row or len(lengths)])
    too_long = (lengths > self.limits[:-1]).any(axis=1)
    self.too_long = np.flatnonzero(too_long)
    fitting = np.flatnonzero(~too_long).astype(np.int32)
    if not len(fitting):
      raise ValueError(
        f'all {len(lengths)} utterances exceed the limits of a row, {list(limits)}'
      )
    frames = lengths[:, 0][fitting]
    self._frames = int(frames.sum(dtype=np.int64))
    self.max_frames = max_frames or int(frames.max())
    fitting = np.random.default_rng(seed).permutation(fitting)
    # All rows, one after another, and where each starts.
    self._utterances, counts = _pack(fitting, lengths, self.limits)
    self._starts = np.concatenate(
      [np.zeros(1, np.int32), counts.cumsum(dtype=np.int32)]
    )
    self.max_per_row = max_per_row or int(counts.max())
    self.steps_per_epoch = -(-len(counts) // rows)

  @property
  def num_rows(self) -> int:
    """Rows of an epoch."""
    return len(self._starts) - 1

  @property
  def padding_waste(self) -> float:
    """Fraction of an epoch's frames that are padding, without empty rows."""
    return 1 - self._frames / (self.num_rows * int(self.limits[0]))

  def __len__(self) -> int:
    return 1 << 40

  def __getitem__(self, step: int) -> BatchPlan:
    epoch, position = divmod(step, self.steps_per_epoch)
    start = position * self.rows
    indices = self._shuffle(epoch)[start : start + self.rows]
    return BatchPlan(
      tuple(self._row(index) for index in indices.tolist()),
      rows=self.rows,
      length=int(self.limits[0]),
      max_frames=self.max_frames,
      max_per_row=self.max_per_row,
      epoch=epoch,
    )

  def _row(self, index: int) -> tuple[int, ...]:
    start, stop = self._starts[index : index + 2].tolist()
    return tuple(self._utterances[start:stop].tolist())

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _shuffle(self, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([self.seed, epoch])
    return rng.permutation(np.arange(self.num_rows, dtype=np.int32))


def _pack(
  utterances: Int[np.ndarray, ' n'],
  lengths: Int[np.ndarray, 'all units'],
  limits: Int[np.ndarray, ' limits'],
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' rows']]:
  """Pack windows of utterances; returns them row by row, and how many each row has.

  limits: of the units and of the number of utterances.
  """

  def pack_window(start: int) -> tuple[np.ndarray, np.ndarray]:
    window = utterances[start : start + WINDOW]
    sizes = np.ones((len(window), len(limits)), np.int64)
    sizes[:, :-1] = lengths[window]
    order, counts = best_fit_decreasing(sizes, limits, compiles)
    return window[order], counts.astype(np.int32)

  compiles = len(utterances) >= COMPILE_FROM
  starts = range(0, len(utterances), WINDOW)
  with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
    packed, counts = zip(*pool.map(pack_window, starts), strict=True)
  return np.concatenate(packed), np.concatenate(counts)
