# SPDX-License-Identifier: Apache-2.0
"""The order of batches that a config describes, as a function of (seed, step)."""

from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Int

from acl_jax.config.sections import CorpusConfig
from data_pipeline.batches import BatchPlan
from data_pipeline.buckets import BucketOrder
from data_pipeline.mixture import Corpora, Mixture
from data_pipeline.packing import PackedOrder

TOO_LONG = np.iinfo(np.int32).max  # length of an utterance that is left out


def open_corpora(data: CorpusConfig) -> Corpora:
  """Open the prepared folders in `config.data.train`."""
  return Corpora([folder for folder, _ in data.train])


def make_order(
  data: CorpusConfig,
  budget: int,
  seed: int,
  lengths: Int[np.ndarray, 'n units'],
  corpus: Int[np.ndarray, ' n'],
  row_tokens: int | None = None,
) -> Sequence[BatchPlan]:
  """Return an order of batches of packed rows, or of one utterance a row in buckets.

  Several corpora are mixed in proportion to their weights.

  budget: encoder frames per batch. lengths: each utterance's encoder frames and, where
  the LLM runs, its tokens; `TOO_LONG` leaves an utterance out. The number of utterances
  left out is logged. corpus: index of each utterance's corpus. row_tokens: limit on the
  LLM tokens of a packed row.
  """
  packs = data.row_frames is not None
  limits = [data.max_frames]
  if packs and row_tokens is not None:
    limits.append(row_tokens)
  _log_excluded(lengths, limits)
  if packs and budget < data.max_frames:
    raise ValueError(
      f'frames_per_batch = {budget} is less than a row of config.data.row_frames ='
      f' {data.row_frames}'
    )
  shape = _packed_shape(lengths, limits) if packs else ()
  orders = []
  for i, (folder, _) in enumerate(data.train):
    of_corpus = lengths
    if len(data.train) > 1:
      of_corpus = np.where((corpus == i)[:, None], lengths, TOO_LONG)
    if not (of_corpus[:, : len(limits)] <= limits).all(axis=1).any():
      raise ValueError(
        f'config.data.train: none of the {int((corpus == i).sum())} utterances of'
        f' {folder} can be used in this stage: each is longer than {limits[0]} frames,'
        ' too short for its transcript, or has no transcript or response'
      )
    if packs:
      orders.append(PackedOrder(of_corpus, limits, budget // limits[0], seed, *shape))
    else:
      orders.append(BucketOrder(of_corpus[:, 0], data.buckets, budget, seed))
  weights = [weight for _, weight in data.train]
  return orders[0] if len(orders) == 1 else Mixture(orders, weights)


def _packed_shape(lengths: np.ndarray, limits: Sequence[int]) -> tuple[int, int]:
  """Return the maximum number of utterances in a row, and the frames of the longest."""
  fitting = lengths[(lengths <= limits).all(axis=1), 0]
  if not len(fitting):
    raise ValueError(
      f'none of {len(lengths)} utterances fits in a row; its limits are {list(limits)}'
    )
  # Without this limit, one row of short utterances would set the shape of all batches.
  return max(1, int(1.5 * limits[0] / fitting.mean())), int(fitting.max())


def _log_excluded(lengths: np.ndarray, limits: Sequence[int]) -> None:
  count = int((lengths[:, : len(limits)] > limits).any(axis=1).sum())
  if count:
    logging.warning(
      '%d of %d utterances are left out: longer than %d frames, too short for their'
      ' transcript, or without a transcript or response',
      count,
      len(lengths),
      limits[0],
    )
