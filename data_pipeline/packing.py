# SPDX-License-Identifier: Apache-2.0
"""Several utterances per row, so that batches have hardly any padding.

Rows are packed once, by best fit, and shuffled every epoch. The batch of a step is thus
a function of (seed, step), computed without earlier batches.
"""

import bisect
import functools
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from data_pipeline.batches import BatchPlan

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
    ones = np.ones((len(lengths), 1), np.int64)
    self.lengths = np.concatenate([lengths, ones], axis=1)
    self.limits = np.asarray([*limits, max_per_row or len(lengths)])
    too_long = (self.lengths > self.limits).any(axis=1)
    self.too_long = np.flatnonzero(too_long)
    fitting = np.flatnonzero(~too_long)
    if not len(fitting):
      raise ValueError(
        f'all {len(lengths)} utterances exceed the limits of a row, {list(limits)}'
      )
    fitting = np.random.default_rng(seed).permutation(fitting)
    self._packed: list[tuple[int, ...]] = []
    for start in range(0, len(fitting), WINDOW):
      window = fitting[start : start + WINDOW]
      packed = best_fit_decreasing(self.lengths[window], self.limits)
      self._packed += [tuple(window[row].tolist()) for row in packed]
    self.max_frames = max_frames or int(self.lengths[fitting, 0].max())
    self.max_per_row = max_per_row or max(map(len, self._packed))
    self.steps_per_epoch = -(-len(self._packed) // rows)

  @property
  def padding_waste(self) -> float:
    """Fraction of an epoch's frames that are padding, without empty rows."""
    num_frames = sum(int(self.lengths[list(row), 0].sum()) for row in self._packed)
    return 1 - num_frames / (len(self._packed) * int(self.limits[0]))

  def __len__(self) -> int:
    return 1 << 40

  def __getitem__(self, step: int) -> BatchPlan:
    epoch, position = divmod(step, self.steps_per_epoch)
    start = position * self.rows
    indices = self._shuffle(epoch)[start : start + self.rows]
    return BatchPlan(
      tuple(self._packed[index] for index in indices),
      rows=self.rows,
      length=int(self.limits[0]),
      max_frames=self.max_frames,
      max_per_row=self.max_per_row,
      epoch=epoch,
    )

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _shuffle(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self.seed, epoch]).permutation(len(self._packed))


def best_fit_decreasing(
  lengths: Int[np.ndarray, 'n units'], limits: Int[np.ndarray, ' units']
) -> list[list[int]]:
  """Pack by best fit decreasing (Johnson 1973); returns the indices of each row.

  The longest come first, each into the fullest row with enough space. "Longest" is by
  the unit of which an utterance takes the largest fraction; "fullest" by the first
  unit, with ties broken by the next. ValueError if a single utterance is over a limit.
  """
  if (over := np.flatnonzero((lengths > limits).any(axis=1))).size:
    raise ValueError(
      f'utterance {over[0]} of {lengths[over[0]].tolist()} exceeds the limits of a row,'
      f' {limits.tolist()}'
    )
  order = np.argsort(-(lengths / limits).max(axis=1), kind='stable').tolist()
  sizes, capacity = lengths.tolist(), limits.tolist()
  rows: list[list[int]] = []
  open_rows: list[tuple[int, ...]] = []  # (space in each unit, row), the fullest first
  for index in order:
    size = sizes[index]
    position = bisect.bisect_left(open_rows, tuple(size))
    while position < len(open_rows) and any(
      map(operator.lt, open_rows[position], size)
    ):
      position += 1
    if position < len(open_rows):
      *space, row = open_rows.pop(position)
    else:
      space, row = capacity, len(rows)
      rows.append([])
    rows[row].append(index)
    space = tuple(map(operator.sub, space, size))
    bisect.insort(open_rows, (*space, row))
  return rows
