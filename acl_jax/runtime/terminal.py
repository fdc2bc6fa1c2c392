# SPDX-License-Identifier: Apache-2.0
"""Facts and histograms, printed for a person."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


def print_fields(console: Console, entries: dict[str, str]) -> None:
  """Prints names and values in two columns."""
  width = max(map(len, entries)) + 2
  for name, value in entries.items():
    console.print(
      Text.assemble((f'{name:{width}}', 'bold'), printable(value)), soft_wrap=True
    )


def printable(text: str) -> str:
  """Without what could move the cursor or ring the bell of a terminal."""
  return ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in text)


def print_histogram(console: Console, rows: Sequence[tuple[str, int]]) -> None:
  """Prints one bar per row."""
  most, width = max(count for _, count in rows), max(len(name) for name, _ in rows)
  mark = '█' if console.is_terminal else '#'
  for name, count in rows:
    bar = mark * -(-40 * count // most)
    console.print(Text.assemble(f'  {name:>{width}}  ', (bar, 'cyan'), f' {count:,}'))
