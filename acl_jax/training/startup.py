# SPDX-License-Identifier: Apache-2.0
"""Timing of start-up: what the time before the first step is spent on."""

import time
from typing import Any

import jax

import acl_jax

_previous_mark = acl_jax.STARTED
_seconds: dict[str, float] = {}


def mark_stage(name: str) -> None:
  """Attribute the time since the last call to `name`."""
  global _previous_mark
  now = time.monotonic()
  _seconds[name] = _seconds.get(name, 0.0) + now - _previous_mark
  _previous_mark = now


def log_time_to_first_step(stage: str, outputs: Any) -> None:
  """Print one line of timings after the first step was dispatched, and reset them.

  outputs: of the step; this function waits for them.
  """
  mark_stage('compilation')
  jax.block_until_ready(outputs)
  mark_stage('step')
  parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in _seconds.items())
  total = sum(_seconds.values())
  print(f'{stage}: first step after {total:.1f} s: {parts}', flush=True)
  _seconds.clear()
