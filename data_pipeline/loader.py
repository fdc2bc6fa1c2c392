# SPDX-License-Identifier: Apache-2.0
"""Batch number `step`, read and assembled ahead of time by Grain's threads."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain

from data_pipeline.batches import BatchPlan

THREADS = 2  # threads, not processes: those lose on records of audio size
AHEAD = 8  # batches


def load_batches(
  order: Sequence[BatchPlan],
  assemble: Callable[[BatchPlan], Any],
  steps: range,
  *,
  parts: Sequence[int] = (0,),
  total: int = 1,
  threads: int = THREADS,
) -> Iterator[Any]:
  """This host's rows of the batches of `steps`, in order: some of `total` parts.

  What a step has depends on nothing else: neither on the number of threads, nor on
  where a run was stopped, and a restart reads no batch before its own.
  """
  dataset = grain.MapDataset.range(steps.start, steps.stop)
  dataset = dataset.map(lambda step: assemble(order[int(step)].share(parts, total)))
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)
  return iter(dataset.to_iter_dataset(options))
