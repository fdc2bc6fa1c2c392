# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from acl_jax.evaluation import statistics

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(pairs)
def test_mcnemar_is_the_exact_test_of_the_disagreements(pairs):
  first, second = np.array(pairs).T
  n, k = int((first != second).sum()), int((first & ~second).sum())
  expected = min(1.0, 2 * binom.cdf(min(k, n - k), n, 0.5)) if n else 1.0
  assert statistics.mcnemar(first, second) == pytest.approx(expected)
  assert statistics.mcnemar(second, first) == pytest.approx(expected)


def test_mcnemar_of_a_known_table():
  first = np.repeat([True, True, False, False], [20, 9, 1, 10])
  second = np.repeat([True, False, True, False], [20, 9, 1, 10])
  assert statistics.mcnemar(first, second) == pytest.approx(22 / 1024)


def test_kappa_of_a_known_table():
  # Cohen's own example: 0.4 agreement beyond chance of 0.5.
  first = np.repeat([True, True, False, False], [20, 5, 10, 15])
  second = np.repeat([True, False, True, False], [20, 5, 10, 15])
  assert statistics.kappa(first, second) == pytest.approx(0.4)
  assert statistics.kappa(first, first) == 1
  assert statistics.kappa(np.ones(4, bool), np.ones(4, bool)) is None


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_intervals_hold_the_mean(values):
  interval = statistics.mean_interval(np.array(values))
  assert interval['value'] == pytest.approx(np.mean(values))
  assert interval['low'] - 1e-9 <= interval['value'] <= interval['high'] + 1e-9


def test_a_single_case_has_no_interval():
  values = np.array([0.5])
  assert statistics.mean_interval(values) == {'value': 0.5, 'low': None, 'high': None}
  pooled = statistics.pooled_interval(lambda indices: 2.0, 1)
  assert pooled == {'value': 2.0, 'low': None, 'high': None}


def test_a_pooled_mean_has_about_the_interval_of_the_mean():
  values = np.random.default_rng(0).normal(size=120)
  mean = statistics.mean_interval(values)
  pooled = statistics.pooled_interval(lambda indices: values[indices].mean(), 120)
  assert pooled['value'] == pytest.approx(mean['value'])
  assert pooled['low'] == pytest.approx(mean['low'], abs=0.05)
  assert pooled['high'] == pytest.approx(mean['high'], abs=0.05)


def test_what_is_hard_for_both_arms_cancels_in_a_pooled_difference():
  values = np.random.default_rng(0).normal(size=50)
  difference = statistics.pooled_difference(
    lambda indices: values[indices].mean() + 1, lambda i: values[i].mean(), 50
  )
  assert difference['low'] == pytest.approx(1) == pytest.approx(difference['high'])


def test_verdicts():
  right, wrong = np.ones(20), np.zeros(20)
  clear = statistics.compare_values(right, wrong, binary=True)
  assert clear['verdict'] == 'can be told from chance' and clear['mcnemar_p'] < 1e-5
  same = statistics.compare_values(right, right, binary=True)
  assert same['verdict'] == 'cannot be told from chance' and same['mcnemar_p'] == 1
  graded = statistics.compare_values(right, wrong, binary=False)
  assert graded['verdict'] == 'can be told from chance'
  assert graded['mcnemar_p'] is graded['kappa'] is None
  # The interval excludes 0, the exact test does not tell 5 of 5 from chance.
  five = np.repeat([1.0, 0.0], [5, 15])
  compared = statistics.compare_values(five, wrong, binary=True)
  assert compared['difference']['low'] > 0
  assert compared['verdict'] == 'cannot be told from chance'


@given(pairs, st.integers(1, 4))
def test_repeating_the_cases_of_a_line_tells_nothing_new(pairs, repeats):
  first, second = np.array(pairs, np.float64).T
  lines = np.repeat(np.arange(len(first)), repeats)
  repeated = first[lines], second[lines]
  for binary in (True, False):
    once = statistics.compare_values(first, second, binary)
    again = statistics.compare_values(*repeated, binary, lines)
    assert again['difference'] == pytest.approx(once['difference'])
    assert again['mcnemar_p'] == pytest.approx(once['mcnemar_p'])
    assert again['kappa'] == pytest.approx(once['kappa'])

  def mean(values):
    return lambda indices: values[indices].mean()

  once = statistics.pooled_difference(mean(first), mean(second), len(first))
  again = statistics.pooled_difference(*map(mean, repeated), len(lines), lines)
  assert again == pytest.approx(once)


def test_lines_of_many_cases_widen_the_interval():
  values = np.repeat([0.0, 1.0] * 10, 12)
  lines = statistics.number_lines([f'{i}' for i in range(20) for _ in range(12)])
  assert lines.tolist() == np.repeat(np.arange(20), 12).tolist()
  assert statistics.number_lines(['a', '', 'a', '']).tolist() == [0, 1, 0, 2]
  width, independent = (
    interval['high'] - interval['low']
    for interval in (
      statistics.mean_interval(values, lines),
      statistics.mean_interval(values),
    )
  )
  assert width == pytest.approx(independent * 12**0.5, rel=0.1)


def test_a_line_counts_once_in_the_test():
  # Line 0 is right in 3 cases of the first arm alone, line 1 in 2 of the second alone.
  first = np.array([1, 1, 1, 0, 0, 1], bool)
  second = np.array([0, 0, 0, 1, 1, 1], bool)
  lines = np.array([0, 0, 0, 1, 1, 2])
  assert statistics.mcnemar(first, second, lines) == 1
  assert statistics.mcnemar(first, second) == pytest.approx(1.0)
  six = np.ones(18, bool)
  lines = np.repeat(np.arange(6), 3)
  assert statistics.mcnemar(six, ~six, lines) == pytest.approx(2 / 64)
  assert statistics.mcnemar(six, ~six) == pytest.approx(2 / 2**18)
