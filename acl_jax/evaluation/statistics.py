# SPDX-License-Identifier: Apache-2.0
"""Whether two arms that answered the same cases differ."""

import math

import numpy as np
from jaxtyping import Bool


def mcnemar(
  first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']
) -> float | None:
  """Return the two-sided p-value of McNemar's exact test; None without cases.

  1 if no case is right for one of them alone.
  """
  if not len(first):
    return None
  one, other = int((first & ~second).sum()), int((~first & second).sum())
  discordant = one + other
  tail = sum(math.comb(discordant, k) for k in range(min(one, other) + 1))
  return min(1.0, 2 * tail / 2**discordant)


def kappa(
  first: Bool[np.ndarray, ' n'], second: Bool[np.ndarray, ' n']
) -> float | None:
  """Return Cohen's kappa; None without cases or if chance alone explains all."""
  if not len(first):
    return None
  agreement = float((first == second).mean())
  a, b = float(first.mean()), float(second.mean())
  chance = a * b + (1 - a) * (1 - b)
  return None if chance == 1 else (agreement - chance) / (1 - chance)
