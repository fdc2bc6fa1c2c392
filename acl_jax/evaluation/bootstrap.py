# SPDX-License-Identifier: Apache-2.0
"""95 % intervals by the paired bootstrap over examples.

Every metric of the report is a ratio of two sums over the examples: nats per token,
word errors per word, or a part of a gap per gap. The examples are drawn again, with
replacement, and both sums are taken of the same draw; so what makes an example hard
for two conditions alike cancels in their difference. The interval is between the
percentiles 2.5 and 97.5 of the ratio (Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

NUM_RESAMPLES = 10_000
SEED = 0
TAIL = 0.025
DRAWS_PER_CHUNK = 1 << 20  # bounds the memory: about 24 MB

Sums = Mapping[str, Float[np.ndarray, ' n']]


class Interval(NamedTuple):
  """A metric and its 95 % interval; a bound is None if the examples give none."""

  value: float
  low: float | None
  high: float | None


def ratio_interval(
  numerators: Shaped[np.ndarray, ' n'], denominators: Shaped[np.ndarray, ' n']
) -> Interval | None:
  """Return sum(numerators) / sum(denominators) over n examples, with its interval.

  The order of the examples changes nothing. None if n < 2, or if the sum of the
  denominators is not positive. A draw whose sum is not positive may be anything, so
  it counts as below the lower bound and above the upper one.
  """
  if len(numerators) < 2:
    return None
  order = np.lexsort((denominators, numerators))
  numerators = numerators[order].astype(np.float64)
  denominators = denominators[order].astype(np.float64)
  if not denominators.sum() > 0:
    return None
  sums, totals = _resample(numerators, denominators)
  known = totals > 0
  ratios = np.divide(sums, totals, out=np.full_like(sums, np.inf), where=known)
  # These methods take an element as it is, and so neither average with infinity.
  high = np.quantile(ratios, 1 - TAIL, method='higher')
  low = np.quantile(np.where(known, ratios, -np.inf), TAIL, method='lower')
  return Interval(
    float(numerators.sum() / denominators.sum()), _if_finite(low), _if_finite(high)
  )


def gap_closed_interval(sums: Sums, name: str) -> Interval | None:
  """Return the share of the gap from shuffled audio (0) to text (1) that is closed.

  Args:
    sums: Nats of each response, by condition; conditions may be missing.
    name: A condition.

  Returns:
    None if a condition is missing, or if shuffled audio is no worse than text.
  """
  if not {'shuffled_audio', 'text', name} <= sums.keys():
    return None
  shuffled = sums['shuffled_audio']
  return ratio_interval(shuffled - sums[name], shuffled - sums['text'])


def difference_interval(
  sums: Sums, num_tokens: Int[np.ndarray, ' n'], first: str, second: str
) -> Interval | None:
  """Return how many nats per token more `first` costs than `second`.

  Args:
    sums: Nats of each response, by condition; conditions may be missing.
    num_tokens: Length of each response.
    first: A condition.
    second: A condition.

  Returns:
    None if a condition is missing, or if there are fewer than 2 examples.
  """
  if not {first, second} <= sums.keys():
    return None
  return ratio_interval(sums[first] - sums[second], num_tokens)


def to_json(interval: Interval | None, value_key: str = 'value') -> Any:
  """Return an interval as in report.json, its value under `value_key`."""
  if interval is None:
    return None
  return {value_key: interval.value, 'low': interval.low, 'high': interval.high}


def _resample(
  numerators: Float[np.ndarray, ' n'], denominators: Float[np.ndarray, ' n']
) -> tuple[Float[np.ndarray, ' r'], Float[np.ndarray, ' r']]:
  """Return both sums of each of NUM_RESAMPLES draws of n examples."""
  rng = np.random.default_rng(SEED)
  count = len(numerators)
  rows = max(1, DRAWS_PER_CHUNK // count)
  sums, totals = [], []
  for start in range(0, NUM_RESAMPLES, rows):
    shape = min(rows, NUM_RESAMPLES - start), count
    indices = rng.integers(0, count, shape)
    sums.append(numerators[indices].sum(axis=1))
    totals.append(denominators[indices].sum(axis=1))
  return np.concatenate(sums), np.concatenate(totals)


def _if_finite(bound: np.floating) -> float | None:
  return float(bound) if np.isfinite(bound) else None
