# SPDX-License-Identifier: Apache-2.0
"""Batches of utterances of similar length, one a row.

The utterances of batch number `step` depend on (seed, step) alone.
"""

import functools
from collections.abc import Sequence

import numpy as np

from data_pipeline.batches import BatchPlan


class BucketOrder(Sequence[BatchPlan]):
  """An endless order of batches by bucket of length.

  No utterance is dropped: the last batch of a bucket may have empty rows instead.

  lengths: encoder frames of every utterance. buckets: row lengths to pad to.
  budget: rows times row length of a batch at most. Attributes: `too_long` are the
  indices of utterances longer than every bucket.
  """

  def __init__(
    self,
    lengths: Sequence[int] | np.ndarray,
    buckets: Sequence[int] | np.ndarray,
    budget: int,
    seed: int,
  ):
    if max(buckets) > budget:
      raise ValueError(
        f'a batch of {budget} frames cannot hold one row of {max(buckets)}; raise the'
        ' batch size or shorten the longest bucket'
      )
    self.lengths = np.asarray(lengths)
    self.buckets = np.sort(np.asarray(buckets))
    self.budget = budget
    self.seed = seed
    self.bucket_index = np.searchsorted(self.buckets, self.lengths)
    num_buckets = len(self.buckets)
    self.too_long = np.flatnonzero(self.bucket_index == num_buckets)
    self.rows = budget // self.buckets
    self.max_frames = int(self.buckets[-1])
    counts = np.bincount(self.bucket_index, minlength=num_buckets)[:num_buckets]
    self.steps_per_epoch = int(np.sum(-(-counts // self.rows)))
    if self.steps_per_epoch == 0:
      raise ValueError(
        f'all {len(lengths)} utterances are longer than the longest bucket,'
        f' {self.buckets[-1]} frames'
      )

  def __len__(self) -> int:
    return 1 << 40

  def __getitem__(self, step: int) -> BatchPlan:
    epoch, position = divmod(step, self.steps_per_epoch)
    return self._plan_epoch(epoch)[position]

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _plan_epoch(self, epoch: int) -> list[BatchPlan]:
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(len(self.lengths))
    plans = []
    for b, (length, rows) in enumerate(zip(self.buckets, self.rows, strict=True)):
      members = order[self.bucket_index[order] == b].tolist()
      for start in range(0, len(members), rows):
        plan = BatchPlan(
          tuple((index,) for index in members[start : start + rows]),
          rows=int(rows),
          length=int(length),
          max_frames=int(length),
          epoch=epoch,
        )
        plans.append(plan)
    return [plans[i] for i in rng.permutation(len(plans))]
