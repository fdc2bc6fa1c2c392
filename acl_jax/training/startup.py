# SPDX-License-Identifier: Apache-2.0
"""Where the time before the first step goes."""

import time
from typing import Any

import jax

import acl_jax

_last = acl_jax.STARTED
_spent: dict[str, float] = {}


def mark_stage(name: str) -> None:
  """What was done since the last call was `name`."""
  global _last
  now = time.monotonic()
  _spent[name] = _spent.get(name, 0.0) + now - _last
  _last = now


def log_time_to_first_step(stage: str, dispatched: Any) -> None:
  """One line, after the first step was dispatched; the next stage is counted from here.

  dispatched: what the step makes; waits for it.
  """
  mark_stage('compilation')
  jax.block_until_ready(dispatched)
  mark_stage('step')
  parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in _spent.items())
  whole = sum(_spent.values())
  print(f'{stage}: first step after {whole:.1f} s: {parts}', flush=True)
  _spent.clear()
