# SPDX-License-Identifier: Apache-2.0
"""Patterns of paths: `audio_{0..7}.tar`, `mls_{german,french}`.

As in NeMo, `_OP_` and `_CL_` also stand for the braces, which a shell would expand.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

MAX_PATHS = 10_000  # paths
_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'([0-9]{1,9})\.\.([0-9]{1,9})')


def expand(path: str | Path) -> list[Path]:
  """Return the paths of a pattern in order; ValueError if there are too many."""
  text = str(path).replace('_OP_', '{').replace('_CL_', '}')
  parts = _BRACES.split(text)  # odd indices hold the content of braces
  count, choices = 1, []
  for index, part in enumerate(parts):
    num_names, names = _parse_braces(part) if index % 2 else (1, [part])
    count *= num_names
    choices.append(names)
  if count > MAX_PATHS:
    raise ValueError(f'{path}: is a pattern of {count} paths; the limit is {MAX_PATHS}')
  return [Path(''.join(names)) for names in itertools.product(*choices)]


def _parse_braces(content: str) -> tuple[int, Iterable[str]]:
  """Return the number of names in a pair of braces, and an iterable of them."""
  if ',' in content:
    names = content.split(',')
    return len(names), names
  if not (match := _RANGE.fullmatch(content)):
    return 1, ['{' + content + '}']
  first, last = int(match[1]), int(match[2])
  if first > last:
    raise ValueError(f'{{{content}}}: the range ends before it starts')
  width = len(match[1])
  return last - first + 1, (f'{n:0{width}d}' for n in range(first, last + 1))
