# SPDX-License-Identifier: Apache-2.0
"""Timing of start-up: what the time before the first step is spent on."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import jax

import acl_jax

FILE = 'startup.jsonl'  # in the workdir: one line per start of a stage

_previous_mark = acl_jax.STARTED
_seconds: dict[str, float] = {}


def mark_stage(name: str) -> None:
  """Attribute the time since the last call to `name`."""
  global _previous_mark
  now = time.monotonic()
  _seconds[name] = _seconds.get(name, 0.0) + now - _previous_mark
  _previous_mark = now


def log_time_to_first_step(stage: str, step: int, outputs: Any, workdir: Path) -> None:
  """Log the timings after the first step was dispatched, and reset them.

  Prints a line; process 0 also appends one to `workdir/startup.jsonl`: the stage, step
  and number of processes, seconds by name, their sum, and the time of day at the end.

  outputs: of the step; this function waits for them.
  """
  mark_stage('compilation')
  jax.block_until_ready(outputs)
  mark_stage('step')
  parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in _seconds.items())
  total = sum(_seconds.values())
  print(f'{stage}: first step after {total:.1f} s: {parts}', flush=True)
  if jax.process_index() == 0:
    seconds = {name: round(seconds, 3) for name, seconds in _seconds.items()}
    line = {
      'stage': stage,
      'step': step,
      'processes': jax.process_count(),
      'seconds': seconds,
      'total': round(total, 3),
      'time': time.time(),
    }
    with contextlib.suppress(OSError):  # a full disk, of which the journal warns
      with (workdir / FILE).open('a') as file:
        file.write(json.dumps(line) + '\n')
  _seconds.clear()
