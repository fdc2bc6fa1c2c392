# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation import bootstrap
from acl_jax.evaluation.bootstrap import (
  Interval,
  difference_interval,
  gap_closed_interval,
  ratio_interval,
  to_json,
)

NATS = st.floats(-50, 50, allow_subnormal=False)
PAIRS = st.lists(st.tuples(NATS, st.integers(1, 40)), min_size=2, max_size=12)


def make_arrays(pairs):
  numerators, denominators = zip(*pairs, strict=True)
  return np.array(numerators), np.array(denominators)


def measure(pairs):
  interval = ratio_interval(*make_arrays(pairs))
  assert interval is not None
  return interval


@pytest.fixture(scope='module', autouse=True)
def fewer_resamples():
  """A tenth of the resamples, for speed."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bootstrap, 'NUM_RESAMPLES', 1_000)
    yield


def test_brute_force():
  rng = np.random.default_rng(1)
  nats, tokens = rng.normal(size=7), rng.integers(1, 9, 7)
  order = np.lexsort((tokens, nats))
  draws, ratios = np.random.default_rng(bootstrap.SEED), []
  for _ in range(1_000):
    chosen = [order[draws.integers(0, 7)] for _ in range(7)]
    ratios.append(sum(nats[i] for i in chosen) / sum(int(tokens[i]) for i in chosen))
  ratios.sort()
  interval = ratio_interval(nats, tokens)
  expected = (nats.sum() / tokens.sum(), ratios[24], ratios[975])
  assert interval == pytest.approx(expected, rel=1e-12)


def test_percentiles_of_all_possible_draws(monkeypatch):
  monkeypatch.setattr(bootstrap, 'NUM_RESAMPLES', 10_000)
  rng = np.random.default_rng(2)
  nats, tokens = rng.normal(size=5), rng.integers(1, 9, 5)
  ratios = [
    sum(nats[i] for i in draw) / sum(tokens[i] for i in draw)
    for draw in itertools.product(range(5), repeat=5)
  ]
  interval = ratio_interval(nats, tokens)
  assert interval is not None
  # The ranks of 10,000 random draws have a standard error of 0.16 %.
  for bound, share in ((interval.low, 0.025), (interval.high, 0.975)):
    below, up_to = np.quantile(ratios, [share - 0.006, share + 0.006])
    assert below <= bound <= up_to


def test_an_interval_covers_the_truth_in_95_percent_of_the_cases():
  rng = np.random.default_rng(3)
  covered = 0
  for _ in range(400):
    tokens = rng.integers(5, 40, 60)
    nats = 0.7 * tokens + rng.normal(scale=tokens**0.5)
    interval = ratio_interval(nats, tokens)
    assert interval is not None and interval.low and interval.high
    covered += interval.low <= 0.7 <= interval.high
  # The percentile interval of 60 examples is a little too narrow; 3 sigma are 3.3 %.
  assert 0.90 < covered / 400 < 0.985


def test_a_paired_difference_is_narrower_than_each_condition():
  rng = np.random.default_rng(4)
  tokens = rng.integers(5, 40, 50)
  hardness = rng.normal(scale=3, size=50)
  sums = {
    name: tokens * (hardness + offset + rng.normal(scale=0.1, size=50))
    for name, offset in (('audio', 1.0), ('cascade', 1.2))
  }
  alone = ratio_interval(sums['audio'], tokens)
  paired = difference_interval(sums, tokens, 'audio', 'cascade')
  assert alone and paired and alone.low and alone.high and paired.low and paired.high
  assert alone.high - alone.low > 10 * (paired.high - paired.low)
  assert paired.low < -0.2 < paired.high < 0


@given(PAIRS, st.randoms())
def test_the_order_of_the_examples_changes_nothing(pairs, random):
  shuffled = random.sample(pairs, len(pairs))
  assert measure(shuffled) == measure(pairs)


@given(PAIRS)
def test_bounds_are_between_the_ratios_of_the_examples(pairs):
  interval = measure(pairs)
  ratios = [nats / tokens for nats, tokens in pairs]
  assert interval.low is not None and interval.high is not None
  assert interval.low <= interval.high
  assert min(ratios) - 1e-9 <= interval.low and interval.high <= max(ratios) + 1e-9


@given(PAIRS)
def test_negated_metrics_have_negated_values(pairs):
  mirrored = measure([(-nats, tokens) for nats, tokens in pairs])
  assert mirrored.value == pytest.approx(-measure(pairs).value, abs=1e-9)


@given(PAIRS)
def test_identical_conditions_have_intervals_of_width_0(pairs):
  nats, tokens = make_arrays(pairs)
  sums = {'audio': nats, 'cascade': nats.copy(), 'text': nats}
  assert difference_interval(sums, tokens, 'audio', 'cascade') == (0, 0, 0)
  sums['shuffled_audio'] = nats + tokens
  assert gap_closed_interval(sums, 'audio') == (1, 1, 1)
  assert gap_closed_interval(sums, 'shuffled_audio') == (0, 0, 0)


@given(PAIRS)
def test_chunks_change_nothing(pairs):
  expected = measure(pairs)
  with pytest.MonkeyPatch.context() as patch:
    for draws in (1, 7 * len(pairs), 1_000 * len(pairs)):
      patch.setattr(bootstrap, 'DRAWS_PER_CHUNK', draws)
      assert measure(pairs) == expected


def test_no_interval_of_a_single_example():
  assert ratio_interval(np.array([1.0]), np.array([3])) is None
  assert ratio_interval(np.array([]), np.array([])) is None


def test_no_interval_of_a_missing_condition_or_gap():
  nats, tokens = np.array([1.0, 2.0]), np.array([3, 4])
  assert difference_interval({'audio': nats}, tokens, 'audio', 'cascade') is None
  sums = {'audio': nats, 'text': nats, 'shuffled_audio': nats - 1}
  assert gap_closed_interval(sums, 'audio') is None
  assert gap_closed_interval(sums, 'cascade') is None


def test_a_bound_is_missing_where_draws_have_no_gap():
  # One draw in four has the second example only, which has no gap.
  interval = ratio_interval(np.array([1.0, 1.0]), np.array([4.0, -1.0]))
  assert interval == (pytest.approx(2 / 3), None, None)
  # Draws with the first example four times have none: 0.7 %, less than 2.5 %.
  denominators = np.array([-0.6, 1.0, 1.0, 1.0, 1.0])
  interval = ratio_interval(np.full(5, 3.0), denominators)
  assert interval == (pytest.approx(15 / 3.4), 3, pytest.approx(15 / 0.2))


def test_intervals_as_json():
  assert to_json(None) is None
  expected = {'nats': 0.5, 'low': None, 'high': 2.0}
  assert to_json(Interval(0.5, None, 2.0), 'nats') == expected
  assert list(to_json(Interval(0.5, None, 2.0))) == ['value', 'low', 'high']
