# SPDX-License-Identifier: Apache-2.0
"""Progress of a job on stderr: a bar on a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

NUM_LINES = 20  # in the log of a job, if it takes seconds
LINE_SECONDS = 10.0  # between the lines of a slower job


class Advance(Protocol):
  """Counts `count` more as done; `status` describes the job so far."""

  def __call__(self, count: int, status: str = '') -> None: ...


@contextmanager
def progress(name: str, total: int, unit: str = '') -> Iterator[Advance]:
  """Show a bar on a terminal; in a log, print a line every 5 % and every 10 s.

  Yields `advance(count, status='')`. A line is `name: 5 of 11 unit`; with a status it
  continues `, status, 0:01 h left`.
  """
  console = Console(stderr=True)
  if console.is_terminal:
    with Progress(
      *Progress.get_default_columns(),
      MofNCompleteColumn(),
      TextColumn(unit),
      TextColumn('{task.fields[status]}'),
      console=console,
    ) as bar:
      task = bar.add_task(name, total=total, status='')
      yield lambda count, status='': bar.update(task, advance=count, status=status)
    return
  done, start = 0, time.monotonic()
  last_line = start

  def advance(count: int, status: str = '') -> None:
    nonlocal done, last_line
    before, done, now = done, done + count, time.monotonic()
    is_next = before * NUM_LINES // total < done * NUM_LINES // total
    if not is_next and now - last_line < LINE_SECONDS:
      return
    last_line, line = now, f'{name}: {done} of {total} {unit}'.rstrip()
    if status:
      left = (now - start) / done * (total - done)
      line = f'{line}, {status}, {_format_hours(left)} left'
    print(line, file=sys.stderr, flush=True)

  yield advance


def _format_hours(seconds: float) -> str:
  minutes = round(seconds / 60)
  return f'{minutes // 60}:{minutes % 60:02d} h'
