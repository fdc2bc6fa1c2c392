# SPDX-License-Identifier: Apache-2.0
"""Which recordings stand in which batch: a function of (seed, step), from a config."""

from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Int

from data_pipeline.batches import BatchPlan
from data_pipeline.buckets import BucketOrder
from data_pipeline.mixture import Corpora, Mixture
from data_pipeline.packing import PackedOrder

TOO_LONG = np.iinfo(np.int32).max  # length of a recording that no batch shall hold


def open_corpora(data: ml_collections.ConfigDict) -> Corpora:
  """The prepared folders of `config.data.train`."""
  return Corpora([folder for folder, _ in parse_mixture(data.train)])


def parse_mixture(train: str) -> list[tuple[str, float]]:
  """Folders and their weights, written as `folder` or as `one*3,other*1.5`."""
  parts = (part.strip().partition('*') for part in train.split(','))
  try:
    return [(folder, float(weight or 1)) for folder, _, weight in parts]
  except ValueError:
    raise ValueError(
      f'config.data.train = {train!r}: write folder, or folder*3,other*1.5'
    ) from None


def make_order(
  data: ml_collections.ConfigDict,
  budget: int,
  seed: int,
  lengths: Int[np.ndarray, 'n units'],
  corpus: Int[np.ndarray, ' n'],
) -> Sequence[BatchPlan]:
  """Packed rows, or one recording a row in buckets, of corpora in their shares.

  budget: encoder frames of a batch. lengths: encoder frames and, where there is an LLM,
  its tokens; `NO_PLACE` for what is left out, which is said. corpus: of each recording.
  """
  packs = data.row_frames is not None
  limits = [data.row_frames, data.get('row_tokens')] if packs else [max(data.buckets)]
  limits = limits[: lengths.shape[1]]
  _log_excluded(lengths, limits)
  if packs and budget < data.row_frames:
    raise ValueError(
      f'frames_per_batch = {budget} holds no row of config.data.row_frames ='
      f' {data.row_frames}'
    )
  shape = _packed_shape(lengths, limits) if packs else ()
  orders = []
  for number in range(len(parse_mixture(data.train))):
    mine = np.where((corpus == number)[:, None], lengths, TOO_LONG)
    if packs:
      orders.append(PackedOrder(mine, limits, budget // limits[0], seed, *shape))
    else:
      orders.append(BucketOrder(mine[:, 0], data.buckets, budget, seed))
  weights = [weight for _, weight in parse_mixture(data.train)]
  return orders[0] if len(orders) == 1 else Mixture(orders, weights)


def _packed_shape(lengths: np.ndarray, limits: Sequence[int]) -> tuple[int, int]:
  """How many recordings a row may have, and the frames of the longest."""
  fitting = lengths[(lengths <= limits).all(axis=1), 0]
  if not len(fitting):
    raise ValueError(f'none of {len(lengths)} recordings fits in {list(limits)}')
  # A row of nothing but short recordings would decide the shape of all batches.
  return max(1, int(1.5 * limits[0] / fitting.mean())), int(fitting.max())


def _log_excluded(lengths: np.ndarray, limits: Sequence[int]) -> None:
  count = int((lengths[:, : len(limits)] > limits).any(axis=1).sum())
  if count:
    logging.warning(
      '%d of %d recordings are left out: longer than %d frames, shorter than their'
      ' transcript needs, or without a transcript or response to learn',
      *(count, len(lengths), limits[0]),
    )
