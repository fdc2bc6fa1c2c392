# SPDX-License-Identifier: Apache-2.0
"""How far a job is, said on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
  """A bar on a terminal, twenty lines in a log; yields `advance(count)`."""
  console = Console(stderr=True)
  if console.is_terminal:
    with Progress(console=console) as bar:
      task = bar.add_task(name, total=total)
      yield lambda count: bar.advance(task, count)
    return
  done = 0

  def advance(count: int) -> None:
    nonlocal done
    before, done = done, done + count
    if before * 20 // total < done * 20 // total:
      print(f'{name}: {done} of {total}', file=sys.stderr, flush=True)

  yield advance
