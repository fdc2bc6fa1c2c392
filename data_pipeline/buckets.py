# SPDX-License-Identifier: Apache-2.0
"""Recordings of like length together, one a row.

Which stand in batch number `step` depends on (seed, step) alone.
"""

import functools
from collections.abc import Sequence

import numpy as np

from data_pipeline.batches import BatchPlan


class BucketOrder(Sequence[BatchPlan]):
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

  def __getitem__(self, step: int) -> BatchPlan:
    epoch, place = divmod(step, self.steps_per_epoch)
    return self._epoch(epoch)[place]

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _epoch(self, epoch: int) -> list[BatchPlan]:
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(len(self.lengths))
    batches = []
    for b, (length, rows) in enumerate(zip(self.buckets, self.rows, strict=True)):
      members = order[self.bucket[order] == b].tolist()
      cuts = range(0, len(members), rows)
      batches += [
        BatchPlan(
          tuple((index,) for index in members[i : i + rows]),
          *(int(rows), int(length), int(length)),
          epoch=epoch,
        )
        for i in cuts
      ]
    return [batches[i] for i in rng.permutation(len(batches))]
