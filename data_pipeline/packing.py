# SPDX-License-Identifier: Apache-2.0
"""Several recordings to a row, so that hardly any of a batch is padding.

Which stand together is decided once, by best fit; an epoch shuffles the rows. So the
batch of any step is a function of (seed, step), found without those before it.
"""

import bisect
import functools
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from data_pipeline.batches import BatchPlan

WINDOW = 1 << 14  # recordings packed together; bounds the rows that stand open


class PackedOrder(Sequence[BatchPlan]):
  """An endless order of batches of packed rows, all of one shape; nothing is dropped.

  lengths: of every recording, in each of the units that a row is limited in, such as
    encoder frames and LLM tokens. limits: of a row, in the same units; the first is
    its length. per_row: how many recordings a row may have. longest: of a recording;
    both are as found, unless given, and decide the shapes.
  rows: of a batch. An epoch's last batch may have empty ones.
  """

  def __init__(
    self,
    lengths: Int[np.ndarray, 'n units'],
    limits: Sequence[int],
    rows: int,
    seed: int,
    per_row: int | None = None,
    longest: int | None = None,
  ):
    self.rows, self.seed = rows, seed
    each = np.ones((len(lengths), 1), np.int64)
    self.lengths = np.concatenate([lengths, each], axis=1)
    self.limits = np.asarray([*limits, per_row or len(lengths)])
    too_long = (self.lengths > self.limits).any(axis=1)
    self.too_long = np.flatnonzero(too_long)
    fitting = np.flatnonzero(~too_long)
    if not len(fitting):
      raise ValueError(f'none of {len(lengths)} recordings fits in {list(limits)}')
    fitting = np.random.default_rng(seed).permutation(fitting)
    self._packed = [
      tuple(window[row].tolist())
      for start in range(0, len(fitting), WINDOW)
      for window in [fitting[start : start + WINDOW]]
      for row in best_fit(self.lengths[window], self.limits)
    ]
    self.longest = longest or int(self.lengths[fitting, 0].max())
    self.per_row = per_row or max(map(len, self._packed))
    self.steps_per_epoch = -(-len(self._packed) // rows)

  @property
  def padding_waste(self) -> float:
    """The share of an epoch's rows, in the first unit, that no recording fills."""
    filled = sum(int(self.lengths[list(row), 0].sum()) for row in self._packed)
    return 1 - filled / (len(self._packed) * int(self.limits[0]))

  def __len__(self) -> int:
    return 1 << 40

  def __getitem__(self, step: int) -> BatchPlan:
    epoch, place = divmod(step, self.steps_per_epoch)
    order = self._epoch(epoch)[place * self.rows : (place + 1) * self.rows]
    return BatchPlan(
      tuple(self._packed[row] for row in order),
      *(self.rows, int(self.limits[0]), self.longest, self.per_row, epoch),
    )

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _epoch(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self.seed, epoch]).permutation(len(self._packed))


def best_fit(
  lengths: Int[np.ndarray, 'n units'], limits: Int[np.ndarray, ' units']
) -> list[list[int]]:
  """Rows of indices: from the longest on, each into the fullest row that has room.

  Best fit decreasing (Johnson 1973): "long" by the unit that an item needs most of,
  "full" by the first unit, and by the next where that is the same.
  ValueError if one alone is over a limit.
  """
  if (over := np.flatnonzero((lengths > limits).any(axis=1))).size:
    raise ValueError(
      f'item {over[0]} of {lengths[over[0]].tolist()} does not fit in {limits.tolist()}'
    )
  order = np.argsort(-(lengths / limits).max(axis=1), kind='stable').tolist()
  needs, whole = lengths.tolist(), limits.tolist()
  rows: list[list[int]] = []
  room: list[tuple[int, ...]] = []  # (left in each unit, row), the fullest first
  for item in order:
    need = needs[item]
    at = bisect.bisect_left(room, tuple(need))
    while at < len(room) and any(map(operator.lt, room[at], need)):
      at += 1
    if at < len(room):
      *left, row = room.pop(at)
    else:
      left, row = whole, len(rows)
      rows.append([])
    rows[row].append(item)
    left = tuple(map(operator.sub, left, need))
    bisect.insort(room, (*left, row))
  return rows
