# SPDX-License-Identifier: Apache-2.0
"""Views of sequences of strings that are read on demand, and so take no memory."""

import bisect
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int


class Concatenated(Sequence[str]):
  """Several sequences, one after another."""

  def __init__(self, parts: Sequence[Sequence[str]]):
    self._parts = list(parts)
    self._starts = [0, *itertools.accumulate(map(len, self._parts))]

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, index: SupportsIndex) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
    number = operator.index(index)
    if not 0 <= number < len(self):
      raise IndexError(f'index {number} is out of range; there are {len(self)}')
    part = bisect.bisect_right(self._starts, number) - 1
    return self._parts[part][number - self._starts[part]]

  def __iter__(self) -> Iterator[str]:
    return itertools.chain.from_iterable(self._parts)


class Picked(Sequence[str]):
  """The strings of given numbers, which may be repeated."""

  def __init__(self, strings: Sequence[str], numbers: Int[np.ndarray, ' n']):
    self._strings, self._numbers = strings, numbers

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: SupportsIndex) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._strings[int(self._numbers[operator.index(index)])]
