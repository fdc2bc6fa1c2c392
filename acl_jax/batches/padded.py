# SPDX-License-Identifier: Apache-2.0
"""Spectrograms of similar length, padded to one of few shapes.

Every new shape costs a compilation, so lengths are rounded up to multiples of a step.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from acl_jax.runtime.rounding import round_up
from data_pipeline.batches import pad_frames

LENGTH_STEP = 64  # log-mel frames

Item = TypeVar('Item')


class PaddedFrames(NamedTuple):
  """Log-mel frames, one utterance a row, and their mask; further rows are empty."""

  log_mel: Float[np.ndarray, 'b t m']
  frame_mask: Bool[np.ndarray, 'b t']


def group_by_length(
  items: Iterable[Item],
  length: Callable[[Item], int],
  frames_per_batch: int,
  length_step: int = LENGTH_STEP,
) -> Iterator[tuple[int, list[Item]]]:
  """Yield batches of items of similar length, each as soon as it is full.

  Items are consumed one by one, so that few of them are in memory.

  length: log-mel frames of an item; those with the same multiple of `length_step` share
  batches. frames_per_batch: padding included.

  Returns: the number of rows, of which a batch of the last items may need fewer, and
  the items.
  """
  buckets: dict[int, list[Item]] = collections.defaultdict(list)

  def num_rows(padded_length: int) -> int:
    return max(1, frames_per_batch // padded_length)

  for item in items:
    padded_length = round_up(length(item), length_step)
    buckets[padded_length].append(item)
    if len(buckets[padded_length]) == num_rows(padded_length):
      yield num_rows(padded_length), buckets.pop(padded_length)
  for padded_length, bucket in buckets.items():
    yield num_rows(padded_length), bucket


def pad_to_step(
  log_mels: Sequence[Float[np.ndarray, '_ m']],
  rows: int,
  max_frames: int,
  length_step: int = LENGTH_STEP,
) -> PaddedFrames:
  """Pad spectrograms to a common multiple of `length_step`, at most `max_frames`.

  ValueError if one is longer than `max_frames`.
  """
  length = min(round_up(max(map(len, log_mels)), length_step), max_frames)
  return PaddedFrames(*pad_frames(log_mels, rows, length))
