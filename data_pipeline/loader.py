# SPDX-License-Identifier: Apache-2.0
"""Batches, read and assembled ahead of time by Grain's threads."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain

from data_pipeline.batches import BatchPlan

NUM_THREADS = 2  # threads: processes are slower for records as large as audio
PREFETCH_BATCHES = 8  # batches


def load_batches(
  order: Sequence[BatchPlan],
  assemble: Callable[[BatchPlan], Any],
  steps: range,
  *,
  parts: Sequence[int] = (0,),
  total: int = 1,
  threads: int = NUM_THREADS,
) -> Iterator[Any]:
  """Iterate over this host's parts of the batches of `steps`, in order.

  parts: which of `total` equal parts of every batch this host loads.

  A batch depends on its step alone, not on the number of threads or on restarts; a
  restarted run reads no earlier batch.
  """
  dataset = grain.MapDataset.range(steps.start, steps.stop)
  dataset = dataset.map(
    lambda step: assemble(order[int(step)].take_parts(parts, total))
  )
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=PREFETCH_BATCHES
  )
  return iter(dataset.to_iter_dataset(options))
