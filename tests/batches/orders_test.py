# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest

from acl_jax.batches.orders import TOO_LONG, make_order
from acl_jax.config.sections import CorpusConfig, parse_mixture
from data_pipeline.buckets import BucketOrder
from data_pipeline.mixture import Mixture
from data_pipeline.packing import PackedOrder

LENGTHS = np.random.default_rng(0).integers(3, 40, (60, 2))
ONE_CORPUS = np.zeros(60, int)


def make_data(train='prepared', row_frames=50, buckets=(20, 40)):
  return CorpusConfig(parse_mixture(train), 1, row_frames, buckets)


def test_packed_rows_respect_both_limits():
  order = make_order(make_data(), 220, 3, LENGTHS, ONE_CORPUS, 60)
  assert isinstance(order, PackedOrder)
  batch = order[0]
  assert batch.rows == 4 and batch.length == 50
  for row in batch.utterances:
    assert (LENGTHS[list(row)].sum(axis=0) <= (50, 60)).all()


def test_without_row_frames_utterances_are_bucketed():
  order = make_order(make_data(row_frames=None), 80, 3, LENGTHS, ONE_CORPUS, 60)
  assert isinstance(order, BucketOrder)
  assert order[0].rows * order[0].length <= 80 and order[0].max_per_row == 1


@pytest.mark.parametrize('row_frames', [None, 50])
def test_corpora_are_mixed_by_weight_in_batches_of_one_shape(row_frames):
  corpus = np.arange(60) % 2
  data = make_data(train='first*3, second', row_frames=row_frames)
  order = make_order(data, 100, 3, LENGTHS, corpus, 60)
  assert isinstance(order, Mixture)
  plans = [order[step] for step in range(40)]
  corpora = [{int(corpus[i]) for i in plan.indices} for plan in plans]
  assert corpora.count({0}) == 30 and corpora.count({1}) == 10
  shapes = {(p.rows, p.length, p.max_frames, p.max_per_row) for p in plans}
  assert len(shapes) == (2 if row_frames is None else 1)


def test_weights_are_numbers():
  with pytest.raises(ValueError, match=r"config\.data\.train = 'a\*b'"):
    make_order(make_data(train='a*b'), 100, 3, LENGTHS, ONE_CORPUS, 60)


def test_utterances_that_do_not_fit_are_left_out_and_counted(caplog):
  lengths = LENGTHS.copy()
  lengths[4, 1], lengths[7, 0] = TOO_LONG, 51
  order = make_order(make_data(), 200, 3, lengths, ONE_CORPUS, 60)
  plans = [order[step] for step in range(order.steps_per_epoch)]
  assert not {4, 7} & {i for plan in plans for i in plan.indices}
  assert re.search(r'\b2 of 60\b.*\b50 frames', caplog.text)


def test_a_batch_smaller_than_a_row_is_refused():
  with pytest.raises(ValueError, match=r'frames_per_batch = 49 .*row_frames = 50'):
    make_order(make_data(), 49, 3, LENGTHS, ONE_CORPUS, 60)


def test_a_corpus_of_which_no_utterance_fits_is_refused():
  with pytest.raises(ValueError, match=r'60 .*\[2, 60\]'):
    make_order(make_data(row_frames=2), 49, 3, LENGTHS, ONE_CORPUS, 60)
