# SPDX-License-Identifier: Apache-2.0
"""Goodput: of the time since a stage began, the share spent on steps that count."""

import contextlib
import json
import time
from pathlib import Path

import jax

from acl_jax.runtime.files import write_atomically


class Goodput:
  """Counts over all restarts; kept in a small file as often as a log line is written.

  Productive is the time of the steps that no restart had to repeat. Not productive:
  starts, the first step with its compilation, saving, measuring, and being down.
  """

  def __init__(self, path: Path, start: int, productive: float):
    """start, productive: the step that the run continues from, and the seconds then."""
    before = _read(path)
    self.path, self.step, self.productive = path, start, productive
    self.began = before.get('began', time.time())
    self.restarts = before.get('restarts', -1) + 1
    lost = max(0, before.get('step', 0) - start)
    self.lost_steps = before.get('lost_steps', 0) + lost
    self._since: float | None = None

  def worked(self, step: int) -> None:
    """A step has been taken since the last call of this or of `paused`."""
    now = time.monotonic()
    if self._since is None:
      self.keep()
    else:
      self.productive += now - self._since
    self._since, self.step = now, step

  def paused(self) -> None:
    """What happened since the last call was no step."""
    self._since = time.monotonic()

  def take(self) -> dict[str, float | int]:
    """The metrics; restarts count these steps as done from now on."""
    self.keep()
    wall = max(time.time() - self.began, 1e-9)
    return {
      'goodput': min(1.0, self.productive / wall),
      'restarts': self.restarts,
      'lost_steps': self.lost_steps,
    }

  def keep(self) -> None:
    """Writes the file, unless the disk is full: the metrics have it, too."""
    if jax.process_index():
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
    return {}  # the first start, or a machine that stopped while it wrote
