# SPDX-License-Identifier: Apache-2.0
"""Differences between two trees of JSON values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_LENGTH = 200  # characters of a value


def find_differences(
  stored: Any, expected: Any, name: str = '', *, ignore_extra: bool = False
) -> Iterator[tuple[str, Any, Any]]:
  """Yield (dotted name, stored value, expected value) wherever the two trees differ.

  A missing value is None. Differences come in the order of `expected`, then keys that
  only `stored` has, unless `ignore_extra`.
  """
  if isinstance(stored, Mapping) and isinstance(expected, Mapping):
    extra = [] if ignore_extra else [key for key in stored if key not in expected]
    for key in [*expected, *extra]:
      path = f'{name}.{key}' if name else key
      values = stored.get(key), expected.get(key)
      yield from find_differences(*values, path, ignore_extra=ignore_extra)
  elif stored != expected:
    yield name, stored, expected


def shorten(value: Any) -> str:
  """Format a value as JSON of at most `MAX_LENGTH` characters."""
  text = json.dumps(value)
  return text if len(text) <= MAX_LENGTH else f'{text[:MAX_LENGTH]}…'
