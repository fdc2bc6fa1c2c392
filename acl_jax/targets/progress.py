# SPDX-License-Identifier: Apache-2.0
"""How far a decode job is: responses, tokens per second, busy slots, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from acl_jax.generation.engine import Statistics

EVERY = 10.0  # seconds between the lines of a log


@contextmanager
def progress(total: int, statistics: Statistics, slots: int) -> Iterator[Callable]:
  """A bar on a terminal, a line every few seconds in a log.

  Yields `advance(tokens)`, to be called with the tokens of every response.
  """
  console = Console(stderr=True)
  done = tokens = 0
  start = said = time.monotonic()
  columns = TextColumn('responses'), BarColumn(), MofNCompleteColumn()
  bar = Progress(
    *columns,
    TextColumn('{task.fields[pace]}'),
    console=console,
    disable=not console.is_terminal,
  )
  task = bar.add_task('', total=total, pace='')

  def advance(count: int) -> None:
    nonlocal done, tokens, said
    done, tokens, now = done + 1, tokens + count, time.monotonic()
    seconds = max(now - start, 1e-9)
    busy = statistics.tokens / max(statistics.steps * slots, 1)
    left = seconds / done * (total - done)
    pace = (
      f'{tokens / seconds:.0f} tokens/s, slots {busy:.0%} busy, {_clock(left)} left'
    )
    bar.update(task, completed=done, pace=pace)
    if not console.is_terminal and (now - said >= EVERY or done == total):
      said = now
      line = f'decode_targets: {done} of {total} responses, {pace}'
      print(line, file=sys.stderr, flush=True)

  with bar:
    yield advance


def _clock(seconds: float) -> str:
  minutes = round(seconds / 60)
  return f'{minutes // 60}:{minutes % 60:02d} h'
