# SPDX-License-Identifier: Apache-2.0
"""One name for many paths: `audio_{0..7}.tar`, `mls_{german,french}`.

NeMo writes `_OP_` and `_CL_` for the braces, which a shell would expand.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

LIMIT = 10_000  # paths
_BRACES = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'([0-9]{1,9})\.\.([0-9]{1,9})')


def expand(path: str | Path) -> list[Path]:
  """The paths that a pattern stands for, in its order; ValueError if too many."""
  text = str(path).replace('_OP_', '{').replace('_CL_', '}')
  parts = _BRACES.split(text)  # what is in braces is at the odd places
  count, choices = 1, []
  for place, part in enumerate(parts):
    number, names = _choices(part) if place % 2 else (1, [part])
    count *= number
    choices.append(names)
  if count > LIMIT:
    raise ValueError(f'{path}: stands for {count} paths, limit {LIMIT}')
  return [Path(''.join(names)) for names in itertools.product(*choices)]


def _choices(inside: str) -> tuple[int, Iterable[str]]:
  """How many names a pair of braces stands for, and which; nothing is listed yet."""
  if ',' in inside:
    names = inside.split(',')
    return len(names), names
  if not (found := _RANGE.fullmatch(inside)):
    return 1, ['{' + inside + '}']
  first, last = int(found[1]), int(found[2])
  if first > last:
    raise ValueError(f'{{{inside}}}: the range ends before it starts')
  width = len(found[1])
  return last - first + 1, (f'{n:0{width}d}' for n in range(first, last + 1))
