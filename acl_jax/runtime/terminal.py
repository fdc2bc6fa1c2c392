# SPDX-License-Identifier: Apache-2.0
"""Fields and histograms on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

MAX_BAR = 40  # characters


def print_fields(console: Console, entries: dict[str, str]) -> None:
  """Print names and values in two columns."""
  width = max(map(len, entries)) + 2
  for name, value in entries.items():
    console.print(
      Text.assemble((f'{name:{width}}', 'bold'), printable(value)), soft_wrap=True
    )


def printable(text: str) -> str:
  """Replace unprintable characters, which could move the cursor or ring the bell."""
  return ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in text)


def print_histogram(console: Console, rows: Sequence[tuple[str, int]]) -> None:
  """Print a bar per row (name, count)."""
  max_count = max(count for _, count in rows)
  width = max(len(name) for name, _ in rows)
  mark = '█' if console.is_terminal else '#'
  for name, count in rows:
    bar = mark * -(-MAX_BAR * count // max_count)
    console.print(Text.assemble(f'  {name:>{width}}  ', (bar, 'cyan'), f' {count:,}'))
