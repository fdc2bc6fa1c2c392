# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.buckets import BucketOrder

LENGTHS = [7, 30, 64, 65, 12, 96, 97, 128, 129, 3, 64, 40, 41]
BUCKETS = (64, 96, 128)


@st.composite
def corpora(draw):
  """Arguments of BucketOrder; built in the tests, because beartype uses randomness."""
  buckets = draw(st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True))
  lengths = draw(st.lists(st.integers(0, 70), min_size=1, max_size=40))
  lengths[0] = min(buckets)  # at least one fits
  budget = draw(st.integers(max(buckets), 200))
  return lengths, buckets, budget, draw(st.integers(0, 2**31))


@given(corpora())
def test_every_fitting_utterance_occurs_once_per_epoch(corpus):
  order = BucketOrder(*corpus)
  for epoch in range(3):
    start = epoch * order.steps_per_epoch
    batches = [order[start + i] for i in range(order.steps_per_epoch)]
    counts = Counter(i for batch in batches for i in batch.indices)
    fitting = [
      i for i, length in enumerate(order.lengths) if length <= order.buckets[-1]
    ]
    assert counts == dict.fromkeys(fitting, 1)
    assert sorted(order.too_long) == sorted(set(range(len(order.lengths))) - {*fitting})


@given(corpora())
def test_batches_use_the_whole_budget_and_the_shortest_bucket(corpus):
  order = BucketOrder(*corpus)
  for batch in (order[i] for i in range(order.steps_per_epoch)):
    assert 1 <= len(batch.indices) <= batch.rows == order.budget // batch.length
    for i in batch.indices:
      fitting = [b for b in order.buckets if b >= order.lengths[i]]
      assert batch.length == min(fitting)


@given(corpora(), st.data())
def test_random_access_equals_sequential_access(corpus, data):
  order = BucketOrder(*corpus)
  steps = 3 * order.steps_per_epoch
  sequential = [order[i] for i in range(steps)]
  fresh = BucketOrder(order.lengths, order.buckets, order.budget, order.seed)
  for step in data.draw(st.permutations(range(steps))):
    assert fresh[step] == sequential[step]


def test_order_changes_with_epoch_and_seed():
  first = BucketOrder(LENGTHS, BUCKETS, 200, seed=0)
  other = BucketOrder(LENGTHS, BUCKETS, 200, seed=1)
  epoch = first.steps_per_epoch
  orders = [
    [first[i] for i in range(epoch)],
    [first[epoch + i] for i in range(epoch)],
    [other[i] for i in range(epoch)],
  ]
  assert orders[0] != orders[1] and orders[0] != orders[2]


def test_buckets_may_be_in_any_order():
  orders = [
    BucketOrder(LENGTHS, b, 200, 0) for b in (BUCKETS, BUCKETS[::-1], list(BUCKETS))
  ]
  assert orders[0][3] == orders[1][3] == orders[2][3]


def test_distant_step():
  order = BucketOrder(LENGTHS, BUCKETS, 200, seed=0)
  assert order[10**9].rows and len(order) > 10**9


def test_budget_below_one_row_is_rejected():
  with pytest.raises(ValueError, match=r'\b127\b.*\b128\b'):
    BucketOrder(LENGTHS, BUCKETS, 127, seed=0)


def test_corpus_of_too_long_utterances_is_rejected():
  with pytest.raises(ValueError, match=r'\b2\b.*\b128\b'):
    BucketOrder([129, 4000], BUCKETS, 200, seed=0)
