# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from ml_collections import ConfigDict

from acl_jax.batches.orders import TOO_LONG, make_order
from data_pipeline.buckets import BucketOrder
from data_pipeline.mixture import Mixture
from data_pipeline.packing import PackedOrder

LENGTHS = np.random.default_rng(0).integers(3, 40, (60, 2))
ALONE = np.zeros(60, int)


def data(**changes):
  made = dict(train='here', row_frames=50, row_tokens=60, buckets=(20, 40))
  return ConfigDict(made | changes)


def test_rows_are_packed_under_both_limits():
  order = make_order(data(), 220, 3, LENGTHS, ALONE)
  assert isinstance(order, PackedOrder)
  batch = order[0]
  assert batch.rows == 4 and batch.length == 50
  for row in batch.utterances:
    assert (LENGTHS[list(row)].sum(axis=0) <= (50, 60)).all()


def test_without_rows_there_are_buckets():
  order = make_order(data(row_frames=None), 80, 3, LENGTHS, ALONE)
  assert isinstance(order, BucketOrder)
  assert order[0].rows * order[0].length <= 80 and order[0].per_row == 1


@pytest.mark.parametrize('row_frames', [None, 50])
def test_corpora_are_mixed_by_weight_in_batches_of_one_shape(row_frames):
  corpus = np.arange(60) % 2
  order = make_order(
    data(train='here*3, there', row_frames=row_frames), 100, 3, LENGTHS, corpus
  )
  assert isinstance(order, Mixture)
  batches = [order[step] for step in range(40)]
  of = [{int(corpus[i]) for i in batch.indices} for batch in batches]
  assert of.count({0}) == 30 and of.count({1}) == 10
  shapes = {(b.rows, b.length, b.longest, b.per_row) for b in batches}
  assert len(shapes) == (2 if row_frames is None else 1)


def test_weights_are_numbers():
  with pytest.raises(ValueError, match="config.data.train = 'a\\*b': write folder"):
    make_order(data(train='a*b'), 100, 3, LENGTHS, ALONE)


def test_what_has_no_place_is_said(caplog):
  lengths = LENGTHS.copy()
  lengths[4, 1], lengths[7, 0] = TOO_LONG, 51
  order = make_order(data(), 200, 3, lengths, ALONE)
  batches = [order[step] for step in range(order.steps_per_epoch)]
  assert not {4, 7} & {i for batch in batches for i in batch.indices}
  assert '2 of 60 recordings are left out: longer than 50 frames' in caplog.text


def test_a_batch_without_a_row_is_refused():
  with pytest.raises(ValueError, match='frames_per_batch = 49 holds no row of .* = 50'):
    make_order(data(), 49, 3, LENGTHS, ALONE)
  with pytest.raises(ValueError, match=r'none of 60 recordings fits in \[2, 60\]'):
    make_order(data(row_frames=2), 49, 3, LENGTHS, ALONE)
