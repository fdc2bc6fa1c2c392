# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import packing
from data_pipeline.best_fit import best_fit_decreasing
from data_pipeline.buckets import BucketOrder
from data_pipeline.packing import PackedOrder


@st.composite
def corpora(draw):
  """Lengths in two units, and the limits of a row."""
  limits = draw(st.tuples(st.integers(8, 60), st.integers(4, 40)))
  pair = st.tuples(*(st.integers(0, limit + 2) for limit in limits))
  lengths = [(1, 1), *draw(st.lists(pair, max_size=50))]
  return np.asarray(lengths), limits


@given(corpora(), st.integers(1, 5), st.integers(0, 2**31))
def test_every_fitting_utterance_occurs_once_per_epoch(corpus, rows, seed):
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
def test_rows_are_within_limits_and_no_two_can_be_merged(corpus, seed):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 1, seed)
  sums = np.asarray(
    [
      lengths[list(order[i].utterances[0])].sum(axis=0)
      for i in range(order.steps_per_epoch)
    ]
  )
  assert (sums <= limits).all()
  for i in range(len(sums)):  # best fit opens a row only if no other has space
    others = np.delete(sums, i, axis=0) + sums[i]
    assert not (others <= limits).all(axis=1).any()


@given(corpora(), st.data())
def test_random_access_equals_sequential_access(corpus, data):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 3, 7)
  sequential = [order[i] for i in range(3 * order.steps_per_epoch)]
  fresh = PackedOrder(lengths, limits, 3, 7)
  for step in data.draw(st.permutations(range(len(sequential)))):
    assert fresh[step] == sequential[step]


def test_epoch_shuffles_rows_and_seed_changes_packing():
  lengths = np.random.default_rng(0).integers(3, 40, (200, 2))
  order, other = (PackedOrder(lengths, (50, 60), 4, seed) for seed in (0, 1))
  epoch = order.steps_per_epoch
  first, second, third = (
    [row for i in range(epoch) for row in batches[start + i].utterances]
    for batches, start in ((order, 0), (order, epoch), (other, 0))
  )
  assert first != second and sorted(first) == sorted(second) != sorted(third)


def test_padding_waste_of_typical_speech():
  rng = np.random.default_rng(0)
  frames = (rng.normal(150, 40, 4_000).clip(15, 400)).astype(int)
  order = PackedOrder(np.stack([frames, frames // 4], 1), (1_024, 512), 8, 0)
  rows = sum(len(order[i].utterances) for i in range(order.steps_per_epoch))
  assert order.padding_waste == pytest.approx(1 - frames.sum() / (rows * 1_024))
  assert order.padding_waste < 0.025


def test_too_long_utterances_are_rejected():
  with pytest.raises(ValueError, match=r'\b1\b.*\[3, 9\].*\[10, 8\]'):
    best_fit_decreasing(np.asarray([[2, 2], [3, 9]]), np.asarray([10, 8]))
  with pytest.raises(ValueError, match=r'\b2\b.*\[10, 8\]'):
    PackedOrder(np.asarray([[20, 2], [3, 9]]), (10, 8), 1, 0)


@given(corpora(), st.integers(1, 3))
def test_all_batches_fit_the_shapes(corpus, max_per_row):
  lengths, limits = corpus
  order = PackedOrder(lengths, limits, 2, 0, max_per_row)
  for batch in (order[i] for i in range(order.steps_per_epoch)):
    indices = batch.indices
    assert max(map(len, batch.utterances)) <= max_per_row == batch.max_per_row
    assert lengths[indices, 0].max() <= batch.max_frames <= batch.length == limits[0]


GOLDEN = {
  'two units': 'c1ffc238cc032802',
  'frames': '234b5a7c9e9b789f',
  'buckets': 'ee75b0b63d9b2926',
}


def make_orders():
  """Orders over the same 1,300 lengths, in windows of 512."""
  rng, n = np.random.default_rng(5), 1_300
  is_long = rng.random(n) < 0.65
  seconds = np.where(is_long, rng.normal(14.5, 1.2, n), rng.gamma(2.2, 3.4, n))
  seconds = seconds.clip(1.3, 50)
  tokens = seconds * rng.normal(3.2, 0.5, n).clip(1.5, 6) + 4
  lengths = np.stack([seconds * 12.5, tokens], 1).astype(np.int64)
  lengths[::97] = 2**31 - 1
  return {
    'two units': PackedOrder(lengths, (512, 150), 16, 3),
    'frames': PackedOrder(lengths[:, :1], (600,), 7, 4, 12, 600),
    'buckets': BucketOrder(lengths[:, 0], (100, 200, 300), 4_000, 9),
  }


def test_batches_are_those_of_all_versions(monkeypatch):
  """Checkpoints resume only in the order in which they were trained."""
  monkeypatch.setattr(packing, 'WINDOW', 512)
  for name, order in make_orders().items():
    steps = [*range(2 * order.steps_per_epoch), 10**9]
    plans = json.dumps([list(order[step]) for step in steps], default=int)
    assert hashlib.sha256(plans.encode()).hexdigest()[:16] == GOLDEN[name], name


def test_compiled_packing_equals_the_plain_one():
  rng = np.random.default_rng(0)
  lengths = rng.integers(0, 60, (700, 3))
  # A unit that is full first makes the search for a row long.
  for limits in ([64, 90, 900], [200, 61, 99], [900, 900, 60]):
    packed = [
      best_fit_decreasing(lengths, np.asarray(limits), compiles)
      for compiles in (False, True)
    ]
    for plain, compiled in zip(*packed, strict=True):
      np.testing.assert_array_equal(plain, compiled)
