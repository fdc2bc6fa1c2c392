# SPDX-License-Identifier: Apache-2.0
"""Rounding of sizes, so that few shapes are compiled."""


def round_up(number: int, step: int) -> int:
  """Return the smallest positive multiple of `step` that is at least `number`."""
  return max(1, -(-number // step)) * step
