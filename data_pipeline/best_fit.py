# SPDX-License-Identifier: Apache-2.0
"""Best fit decreasing, compiled: millions of utterances into rows in seconds."""

import functools
import inspect
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

COMPILE_FROM = 4_096  # utterances; fewer are packed sooner than the compiler is done


def best_fit_decreasing(
  lengths: Int[np.ndarray, 'n units'],
  limits: Int[np.ndarray, ' units'],
  compiles: bool | None = None,
) -> tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' rows']]:
  """Pack by best fit decreasing (Johnson 1973).

  The longest come first, each into the fullest row with enough space. "Longest" is by
  the unit of which an utterance takes the largest fraction; "fullest" by the first
  unit, with ties broken by the next.

  compiles: whether to compile the loop, by default for many utterances. Threads can
  then run at once.

  Returns: the utterances row by row, and how many each row has. ValueError if a single
  utterance is over a limit.
  """
  if (over := np.flatnonzero((lengths > limits).any(axis=1))).size:
    raise ValueError(
      f'utterance {over[0]} of {lengths[over[0]].tolist()} exceeds the limits of a row,'
      f' {limits.tolist()}'
    )
  order = np.argsort(-(lengths / limits).max(axis=1), kind='stable')
  row_of = np.empty(len(order), np.int32)
  if compiles is None:
    compiles = len(order) >= COMPILE_FROM
  place = _compiled() if compiles else inspect.unwrap(_place)
  rows = place(lengths[order].astype(np.int64), limits.astype(np.int64), row_of)
  by_row = np.argsort(row_of, kind='stable')
  return order[by_row], np.bincount(row_of, minlength=rows)


@functools.cache
def _compiled() -> Callable[..., int]:
  import numba  # slow to import

  # Tests wrap functions to check the types of their arguments.
  return numba.njit(nogil=True)(inspect.unwrap(_place))


def _place(sizes: np.ndarray, limits: np.ndarray, row_of: np.ndarray) -> int:
  """Put utterances of the given sizes into rows, in order; returns how many rows.

  row_of: output, the row of each utterance.
  """
  count, units = sizes.shape
  space = np.empty((count, units), np.int64)  # left in each row
  ranked = np.empty(count, np.int32)  # rows by space, the fullest first, then by number
  rows = 0
  for i in range(count):
    # The first row with at least this much space, by the first unit, then the next, …
    first, last = 0, rows
    while first < last:
      middle = (first + last) // 2
      row, is_less = ranked[middle], False
      for unit in range(units):
        if space[row, unit] != sizes[i, unit]:
          is_less = space[row, unit] < sizes[i, unit]
          break
      if is_less:
        first = middle + 1
      else:
        last = middle
    # The first of those with enough of every unit, or a new row.
    place = first
    while place < rows:
      row, fits = ranked[place], True
      for unit in range(1, units):
        if space[row, unit] < sizes[i, unit]:
          fits = False
          break
      if fits:
        break
      place += 1
    if place < rows:
      row = ranked[place]
    else:
      row, rows = rows, rows + 1
      for unit in range(units):
        space[row, unit] = limits[unit]
    for unit in range(units):
      space[row, unit] -= sizes[i, unit]
    row_of[i] = row
    # Its new rank, which is not after the old one.
    first, last = 0, place
    while first < last:
      middle = (first + last) // 2
      other, is_less = ranked[middle], ranked[middle] < row
      for unit in range(units):
        if space[other, unit] != space[row, unit]:
          is_less = space[other, unit] < space[row, unit]
          break
      if is_less:
        first = middle + 1
      else:
        last = middle
    for j in range(place, first, -1):
      ranked[j] = ranked[j - 1]
    ranked[first] = row
  return rows
