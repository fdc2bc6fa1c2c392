# SPDX-License-Identifier: Apache-2.0
"""Goodput: the share of a stage's wall time that was spent on steps that count."""

import contextlib
import json
import time
from pathlib import Path

import jax

from acl_jax.runtime.files import write_atomically


class Goodput:
  """Accumulates over restarts, in a small file that is saved with every log line.

  Productive time is the time of steps that no restart repeats. Start-up, the first step
  with its compilation, saving, evaluation and downtime are not productive.
  """

  def __init__(self, path: Path, start: int, productive: float):
    """start, productive: step and productive seconds of the restored checkpoint."""
    before = _read(path)
    self.path, self.step, self.productive = path, start, productive
    self.began = before.get('began', time.time())
    self.restarts = before.get('restarts', -1) + 1
    lost = max(0, before.get('step', 0) - start)
    self.lost_steps = before.get('lost_steps', 0) + lost
    self._since: float | None = None

  def add_step(self, step: int) -> None:
    """Count the time since the last call of this method or of `pause` as productive.

    The first call only starts the clock, because that step includes compilation.
    """
    now = time.monotonic()
    if self._since is None:
      self.save()
    else:
      self.productive += now - self._since
    self._since, self.step = now, step

  def pause(self) -> None:
    """Exclude the time since the last call of `add_step`."""
    self._since = time.monotonic()

  def metrics(self) -> dict[str, float | int]:
    """Return the metrics, and save them, so that a restart counts lost steps."""
    self.save()
    wall = max(time.time() - self.began, 1e-9)
    return {
      'goodput': min(1.0, self.productive / wall),
      'restarts': self.restarts,
      'lost_steps': self.lost_steps,
    }

  def save(self) -> None:
    """Write the file; ignore a full disk, as the metrics have these values too."""
    if jax.process_index() != 0:
      return
    names = ('began', 'restarts', 'lost_steps', 'step')
    values = {name: getattr(self, name) for name in names}
    with contextlib.suppress(OSError):
      write_atomically(self.path, json.dumps(values))


def _read(path: Path) -> dict:
  try:
    before = json.loads(path.read_text())
    return {
      name: float(before[name]) if name == 'began' else int(before[name])
      for name in ('began', 'restarts', 'lost_steps', 'step')
    }
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return {}  # the first start, or the machine stopped during a write
