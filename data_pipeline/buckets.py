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
    self.bucket_index = np.searchsorted(self.buckets, self.lengths).astype(np.int16)
    num_buckets = len(self.buckets)
    self.too_long = np.flatnonzero(self.bucket_index == num_buckets)
    self.rows = budget // self.buckets
    self.max_frames = int(self.buckets[-1])
    counts = np.bincount(self.bucket_index, minlength=num_buckets)[:num_buckets]
    self._ends = np.cumsum(counts)  # of the buckets, in an epoch's utterances
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
    utterances, starts, buckets = self._plan_epoch(epoch)
    start, bucket = int(starts[position]), int(buckets[position])
    rows, length = int(self.rows[bucket]), int(self.buckets[bucket])
    stop = min(start + rows, int(self._ends[bucket]))
    return BatchPlan(
      tuple((index,) for index in utterances[start:stop].tolist()),
      rows=rows,
      length=length,
      max_frames=length,
      epoch=epoch,
    )

  @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its loader
  def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return utterances by bucket, and the first one and bucket of each batch."""
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(np.arange(len(self.lengths), dtype=np.int32))
    by_bucket = order[np.argsort(self.bucket_index[order], kind='stable')]
    starts, buckets = [], []
    for bucket, (stop, rows) in enumerate(zip(self._ends, self.rows, strict=True)):
      firsts = np.arange(self._ends[bucket - 1] if bucket else 0, stop, rows)
      starts.append(firsts)
      buckets.append(np.full(len(firsts), bucket))
    shuffled = rng.permutation(self.steps_per_epoch)
    return (
      by_bucket,
      np.concatenate(starts)[shuffled],
      np.concatenate(buckets)[shuffled],
    )
