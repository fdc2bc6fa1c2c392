# SPDX-License-Identifier: Apache-2.0
"""Checks of the sizes in the configs of models."""

from collections.abc import Iterable
from typing import Any


def check_positive_integers(config: Any, names: Iterable[str]) -> None:
  """Raise ValueError unless these fields are positive integers."""
  for name in names:
    value = getattr(config, name)
    if type(value) is not int or value < 1:
      raise ValueError(f'{name} = {value!r} is not a positive integer')


def check_multiple(config: Any, name: str, divisor: str) -> None:
  """Raise ValueError unless the field `name` is a multiple of the field `divisor`."""
  value, number = getattr(config, name), getattr(config, divisor)
  if value % number:
    raise ValueError(f'{name} = {value} is not a multiple of {divisor} = {number}')
