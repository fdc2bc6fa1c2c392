# SPDX-License-Identifier: Apache-2.0
"""Batch number `step`, read and assembled ahead of time by Grain's threads."""

from collections.abc import Callable, Iterator
from typing import Any

import grain

from data_pipeline.batches import Batch, Buckets
from data_pipeline.packing import Packed, PackedBatch

THREADS = 2  # threads, not processes: those lose on records of audio size
AHEAD = 8  # batches


def load(
  order: Buckets | Packed,
  assemble: Callable[[Batch | PackedBatch], dict[str, Any]],
  steps: range,
) -> Iterator[dict[str, Any]]:
  """The batches of `steps`, in order; a restart at any step costs nothing."""
  dataset = grain.MapDataset.range(steps.start, steps.stop)
  dataset = dataset.map(lambda step: assemble(order[int(step)]))
  options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
  return iter(dataset.to_iter_dataset(options))
