# SPDX-License-Identifier: Apache-2.0
"""Intervals of metrics and of paired differences, and whether they could be chance."""

from collections.abc import Callable
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


def mean_interval(values: Float[np.ndarray, ' n']) -> Json:
  """Return the mean of n cases with its 95 % interval, whose bounds may be None."""
  interval = ratio_interval(values, np.ones(len(values)))
  if interval is None:
    return {'value': float(values.mean()), 'low': None, 'high': None}
  return dict(interval._asdict())


def pooled_interval(pool: Pool, count: int) -> Json:
  """Return a metric of n cases together with its 95 % interval."""
  return _with_bounds(pool(np.arange(count)), _resample_pool(pool, count))


def pooled_difference(first: Pool, second: Pool, count: int) -> Json:
  """Return the difference of a metric of two arms, from the same draws of cases."""
  every = np.arange(count)
  draws = _resample_pool(first, count), _resample_pool(second, count)
  return _with_bounds(first(every) - second(every), draws[0] - draws[1])


def mcnemar(first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']) -> float:
  """Return the p-value of McNemar's exact test of two arms on the same cases."""
  only_first, only_second = np.sum(first & ~second), np.sum(second & ~first)
  if not (disagreements := int(only_first + only_second)):
    return 1.0
  return float(stats.binomtest(int(only_first), disagreements, 0.5).pvalue)


def cohen_kappa(
  first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']
) -> float | None:
  """Return Cohen's kappa: the agreement of two arms beyond that of chance.

  None if both arms are always right, or both always wrong: chance agrees as well.
  """
  p, q = float(first.mean()), float(second.mean())
  by_chance = p * q + (1 - p) * (1 - q)
  if by_chance == 1:
    return None
  return (float(np.mean(first == second)) - by_chance) / (1 - by_chance)


def compare_values(
  first: Float[np.ndarray, ' n'], second: Float[np.ndarray, ' n'], binary: bool
) -> Json:
  """Return how a metric of each case differs between two arms, as in report.json.

  binary: whether it is 0 or 1, so that McNemar's test and kappa apply.
  """
  p_value = kappa = None
  if binary:
    p_value = mcnemar(first > 0.5, second > 0.5)
    kappa = cohen_kappa(first > 0.5, second > 0.5)
  return describe_comparison(mean_interval(first - second), p_value, kappa)


def describe_comparison(
  difference: Json, p_value: float | None = None, kappa: float | None = None
) -> Json:
  """Return a comparison as in report.json, with its verdict in words.

  The verdict follows McNemar's test or, without one, the interval of the difference.
  """
  low, high = difference['low'], difference['high']
  excludes_zero = (low is not None and low > 0) or (high is not None and high < 0)
  is_clear = excludes_zero if p_value is None else p_value < SIGNIFICANCE
  return {
    'difference': difference,
    'mcnemar_p': p_value,
    'kappa': kappa,
    'verdict': f'{"can" if is_clear else "cannot"} be told from chance',
  }


def _resample_pool(pool: Pool, count: int) -> Float[np.ndarray, ' r']:
  """Return the metric of each of POOL_RESAMPLES draws of n cases."""
  rng = np.random.default_rng(SEED)
  draws = rng.integers(0, count, (POOL_RESAMPLES if count > 1 else 0, count))
  return np.array([pool(draw) for draw in draws])


def _with_bounds(value: float, draws: Float[np.ndarray, ' r']) -> Json:
  low = high = None
  if len(draws) and np.isfinite(draws).all():
    low, high = np.quantile(draws, [TAIL, 1 - TAIL]).tolist()
  return {'value': float(value), 'low': low, 'high': high}
