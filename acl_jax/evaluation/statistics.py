# SPDX-License-Identifier: Apache-2.0
"""Intervals of metrics and of paired differences, and whether they could be chance.

`lines` number the lines that cases are of. Cases of one line are not independent, so
lines are what is drawn and what is tested.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from acl_jax.evaluation.bootstrap import SEED, TAIL, ratio_interval

POOL_RESAMPLES = 300  # of metrics of all cases together, each of which takes long
SIGNIFICANCE = 2 * TAIL

Json = dict[str, Any]

Pool = Callable[
  [Int[np.ndarray, ' n']], float
]  # a metric of the cases at these indices


Lines = Int[np.ndarray, ' n']  # from 0


def mean_interval(values: Float[np.ndarray, ' n'], lines: Lines | None = None) -> Json:
  """Return the mean of n cases with its 95 % interval, whose bounds may be None.

  lines: None if every case is a line of its own.
  """
  sums = np.bincount(_lines(lines, len(values)), values)
  interval = ratio_interval(sums, np.bincount(_lines(lines, len(values))))
  if interval is None:
    return {'value': float(values.mean()), 'low': None, 'high': None}
  return dict(interval._asdict())


def pooled_interval(pool: Pool, count: int, lines: Lines | None = None) -> Json:
  """Return a metric of n cases together with its 95 % interval."""
  lines = _lines(lines, count)
  return _with_bounds(pool(np.arange(count)), _resample_pool(pool, lines))


def pooled_difference(
  first: Pool, second: Pool, count: int, lines: Lines | None = None
) -> Json:
  """Return the difference of a metric of two arms, from the same draws of lines."""
  every, lines = np.arange(count), _lines(lines, count)
  draws = _resample_pool(first, lines), _resample_pool(second, lines)
  return _with_bounds(first(every) - second(every), draws[0] - draws[1])


def mcnemar(
  first: Bool[np.ndarray, ' n'],
  second: Bool[np.ndarray, ' n'],
  lines: Lines | None = None,
) -> float | None:
  """Return the two-sided p-value of McNemar's exact test; None without cases.

  Of lines with several cases it is the sign test of the arm that is right more often,
  which is McNemar's test where each line has one. 1 if no line tells the arms apart.
  """
  if not len(first):
    return None
  more = np.bincount(_lines(lines, len(first)), first * 1.0 - second * 1.0)
  only_first, disagreements = int(np.sum(more > 0)), int(np.sum(more != 0))
  if not disagreements:
    return 1.0
  return float(stats.binomtest(only_first, disagreements, 0.5).pvalue)


def kappa(
  first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']
) -> float | None:
  """Return Cohen's kappa: the agreement of two arms beyond that of chance.

  It describes all cases, whatever their lines. None without cases, or if both arms are
  always right, or both always wrong.
  """
  if not len(first):
    return None
  p, q = float(first.mean()), float(second.mean())
  by_chance = p * q + (1 - p) * (1 - q)
  if by_chance == 1:
    return None
  return (float(np.mean(first == second)) - by_chance) / (1 - by_chance)


def compare_values(
  first: Float[np.ndarray, ' n'],
  second: Float[np.ndarray, ' n'],
  binary: bool,
  lines: Lines | None = None,
) -> Json:
  """Return how a metric of each case differs between two arms, as in report.json.

  binary: whether it is 0 or 1, so that McNemar's test and kappa apply.
  """
  difference = mean_interval(first - second, lines)
  if not binary:
    return describe_comparison(difference)
  is_right = first > 0.5, second > 0.5
  p_value = mcnemar(*is_right, lines)
  return describe_comparison(difference, p_value, kappa(*is_right))


def describe_comparison(
  difference: Json, p_value: float | None = None, agreement: float | None = None
) -> Json:
  """Return a comparison as in report.json, with its verdict in words.

  The verdict follows the p-value or, without one, the interval of the difference.
  agreement: Cohen's kappa.
  """
  low, high = difference['low'], difference['high']
  excludes_zero = (low is not None and low > 0) or (high is not None and high < 0)
  is_clear = excludes_zero if p_value is None else p_value < SIGNIFICANCE
  return {
    'difference': difference,
    'mcnemar_p': p_value,
    'kappa': agreement,
    'verdict': f'{"can" if is_clear else "cannot"} be told from chance',
  }


def number_lines(names: Sequence[str]) -> Lines:
  """Return a number for each name; '' is a line of its own."""
  numbers: dict[str | int, int] = {}
  return np.array(
    [numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(names)],
    np.int64,
  )


def _lines(lines: Lines | None, count: int) -> Lines:
  return np.arange(count) if lines is None else lines


def _resample_pool(pool: Pool, lines: Lines) -> Float[np.ndarray, ' r']:
  """Return the metric of each of POOL_RESAMPLES draws of as many lines."""
  rng = np.random.default_rng(SEED)
  count = int(lines.max(initial=-1)) + 1
  draws = rng.integers(0, count, (POOL_RESAMPLES if count > 1 else 0, count))
  members = np.split(
    np.argsort(lines, kind='stable'), np.cumsum(np.bincount(lines))[:-1]
  )
  return np.array([pool(np.concatenate([members[i] for i in draw])) for draw in draws])


def _with_bounds(value: float, draws: Float[np.ndarray, ' r']) -> Json:
  low = high = None
  if len(draws) and np.isfinite(draws).all():
    low, high = np.quantile(draws, [TAIL, 1 - TAIL]).tolist()
  return {'value': float(value), 'low': low, 'high': high}
