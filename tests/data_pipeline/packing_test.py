# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.packing import PackedOrder, best_fit


@st.composite
def corpora(draw):
  """Lengths in two units, and a row's limits."""
  limits = draw(st.tuples(st.integers(8, 60), st.integers(4, 40)))
  pair = st.tuples(*(st.integers(0, limit + 2) for limit in limits))
  lengths = [(1, 1), *draw(st.lists(pair, max_size=50))]
  return np.asarray(lengths), limits


@given(corpora(), st.integers(1, 5), st.integers(0, 2**31))
def test_every_recording_that_fits_comes_once_per_epoch(corpus, rows, seed):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, rows, seed)
  for epoch in range(2):
    start = epoch * order.steps_per_epoch
    batches = [order[start + i] for i in range(order.steps_per_epoch)]
    counts = Counter(i for batch in batches for row in batch.utterances for i in row)
    fitting = np.flatnonzero((lengths <= limits).all(axis=1)).tolist()
    assert counts == dict.fromkeys(fitting, 1)
    assert sorted(order.too_long) == sorted(set(range(len(lengths))) - {*fitting})
    assert all(1 <= len(batch.utterances) <= rows for batch in batches)
    assert all(batch.epoch == epoch for batch in batches)


@given(corpora(), st.integers(0, 2**31))
def test_no_row_is_over_a_limit_and_no_two_could_be_one(corpus, seed):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 1, seed)
  sums = np.asarray(
    [
      lengths[list(order[i].utterances[0])].sum(axis=0)
      for i in range(order.steps_per_epoch)
    ]
  )
  assert (sums <= limits).all()
  for i in range(len(sums)):  # best fit opens a row only where nothing else has room
    others = np.delete(sums, i, axis=0) + sums[i]
    assert not (others <= limits).all(axis=1).any()


@given(corpora(), st.data())
def test_random_access_equals_sequential(corpus, data):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 3, 7)
  sequential = [order[i] for i in range(3 * order.steps_per_epoch)]
  fresh = PackedOrder(lengths, limits, 3, 7)
  for step in data.draw(st.permutations(range(len(sequential)))):
    assert fresh[step] == sequential[step]


def test_an_epoch_shuffles_the_rows_and_a_seed_packs_anew():
  lengths = np.random.default_rng(0).integers(3, 40, (200, 2))
  order, other = (
    PackedOrder(lengths, (50, 60), 4, 0),
    PackedOrder(lengths, (50, 60), 4, 1),
  )
  epoch = order.steps_per_epoch
  first, second, third = (
    [row for i in range(epoch) for row in which[start + i].utterances]
    for which, start in ((order, 0), (order, epoch), (other, 0))
  )
  assert first != second and sorted(first) == sorted(second) != sorted(third)


def test_speech_leaves_hardly_any_padding():
  rng = np.random.default_rng(0)
  frames = (rng.normal(150, 40, 4_000).clip(15, 400)).astype(int)
  order = PackedOrder(np.stack([frames, frames // 4], 1), (1_024, 512), 8, 0)
  rows = sum(len(order[i].utterances) for i in range(order.steps_per_epoch))
  assert order.padding_waste == pytest.approx(1 - frames.sum() / (rows * 1_024))
  assert order.padding_waste < 0.025


def test_too_long_is_an_error_that_names_it():
  with pytest.raises(ValueError, match=r'item 1 of \[3, 9\] does not fit in \[10, 8\]'):
    best_fit(np.asarray([[2, 2], [3, 9]]), np.asarray([10, 8]))
  with pytest.raises(ValueError, match='none of 2 recordings fits'):
    PackedOrder(np.asarray([[20, 2], [3, 9]]), (10, 8), 1, 0)


@given(corpora(), st.integers(1, 3))
def test_shapes_hold_what_any_batch_has(corpus, per_row):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 2, 0, per_row)
  for batch in (order[i] for i in range(order.steps_per_epoch)):
    placed = batch.indices
    assert max(map(len, batch.utterances)) <= per_row == batch.per_row
    assert lengths[placed, 0].max() <= batch.longest <= batch.length == limits[0]
