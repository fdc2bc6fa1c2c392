# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from rich import console

from acl_jax.runtime import progress as module
from acl_jax.runtime.progress import progress


@pytest.fixture
def clock(monkeypatch):
  """Seconds that tests set."""
  seconds = [0.0]
  monkeypatch.setattr(module.time, 'monotonic', lambda: seconds[0])
  return seconds


def lines(capsys):
  return capsys.readouterr().err.splitlines()


def test_a_log_has_a_line_every_5_percent(clock, capsys):
  with progress('job', 1000) as advance:
    for _ in range(500):
      advance(2)
  assert lines(capsys) == [f'job: {50 * i} of 1000' for i in range(1, 21)]


def test_a_slow_job_logs_every_10_seconds(clock, capsys):
  with progress('job', 1000, 'files') as advance:
    for _ in range(49):
      clock[0] += 4
      advance(1)
  assert lines(capsys) == [f'job: {i} of 1000 files' for i in range(3, 49, 3)]


def test_a_status_comes_with_the_time_left(clock, capsys):
  with progress('job', 4, 'files') as advance:
    clock[0] += 3600
    advance(1, '7 MB/s')
    advance(3, '9 MB/s')
  assert lines(capsys) == [
    'job: 1 of 4 files, 7 MB/s, 3:00 h left',
    'job: 4 of 4 files, 9 MB/s, 0:00 h left',
  ]


def test_a_terminal_shows_a_bar(monkeypatch, capsys):
  terminal = console.Console(stderr=True, force_terminal=True, width=120)
  monkeypatch.setattr(module, 'Console', lambda **_: terminal)
  with progress('job', 3, 'files') as advance:
    advance(1)
    advance(2, '9 MB/s')
  shown = re.sub(r'\x1b\[[^A-Za-z]*[A-Za-z]', '', capsys.readouterr().err)
  assert re.search(r'job .*100% .*3/3 files 9 MB/s', shown.splitlines()[-1]), shown
