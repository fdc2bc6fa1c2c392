# SPDX-License-Identifier: Apache-2.0
"""What is written down of a training: metrics, and the note in every checkpoint."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging

from acl_jax.training.checkpoint import Restored
from acl_jax.training.goodput import Goodput
from acl_jax.training.metrics import MetricsWriter, Throughput
from acl_jax.training.provenance import Provenance
from data_pipeline.batches import BatchPlan

Values = dict[str, float | int]
Measure = Callable[[Any], Values]


class BatchFeed(NamedTuple):
  """Batches: their order, how each is put together, the seconds of a frame in them.

  ids: the names of the recordings that the order counts.
  """

  order: Sequence[BatchPlan]
  assemble: Callable
  frame_seconds: float
  ids: Sequence[str]


class Journal:
  """Of one stage, over all its restarts."""

  def __init__(
    self,
    name: str,
    config: ml_collections.ConfigDict,
    workdir: Path,
    feed: BatchFeed,
    provenance: Provenance,
    found: Restored | None,
  ):
    """found: the checkpoint that the run continues from."""
    self.name, self.stage, self.feed = name, config[name], feed
    self.provenance = provenance
    self.start, note = (found.step, found.note) if found else (0, {})
    self.metrics = MetricsWriter(workdir, name)
    self.metrics.forget_after(self.start)
    self.pace = Throughput(feed.frame_seconds, note.get('pace'))
    path, productive = workdir / f'goodput-{name}.json', note.get('productive', 0.0)
    self.goodput = Goodput(path, self.start, productive)
    self._last: tuple[int, Mapping[str, jax.Array]] | None = None

  def catch_up(self, found: Restored, measure: Measure | None) -> None:
    """Says where the run continues, and writes the line that the last one left out."""
    total = self.stage.steps
    print(f'{self.name}: continues at step {found.step} of {total}', flush=True)
    if changed := self.provenance.differences(found.note):
      logging.warning('%s: the config has changed: %s', self.name, changed)
    if line := found.note['unwritten']:
      measured = measure(found.state) if measure else {}
      self.metrics.write(found.step, total, line | measured)

  def took(self, number: int, batch: Any, values: Mapping[str, jax.Array]) -> None:
    """A step is under way; `values` will be its metrics."""
    self.pace.add(batch)
    self.goodput.worked(number)
    self._last = number, values

  def look_back(self) -> Values:
    """The metrics of the last step, which this waits for.

    FloatingPointError, with everything written, if one of them is not finite.
    """
    if self._last is None:
      return {}
    number, values = self._last
    self._last = None
    seen = jax.tree.map(float, dict(values))
    for key, value in seen.items():
      if not math.isfinite(value):
        self.metrics.write(number, self.stage.steps, seen)
        indices = self.feed.order[number - 1].indices
        ids = ' '.join(self.feed.ids[i] for i in indices)
        logging.error('%s: the recordings of step %d: %s', self.name, number, ids)
        raise FloatingPointError(
          f'{key} of stage {self.name} is {value} at step {number}, of which the'
          ' recordings are named above; the last checkpoint is from before'
        )
    return seen

  def is_due(self, number: int) -> bool:
    """Whether a step has a line, whatever happens to the run."""
    return number % self.stage.log_every == 0 or self._is_measured(number)

  def _is_measured(self, number: int) -> bool:
    return number % self.stage.save_every == 0 or number == self.stage.steps

  def write(
    self, number: int, state: Any, measure: Measure | None, hurry: bool
  ) -> Values | None:
    """Looks at the last step, and writes its line if it is to have one.

    measure: what more to say at every save. In a hurry that is left to the next run:
    the line is returned and not written.
    """
    seen = self.look_back()
    if not self.is_due(number):
      return None
    line = seen | self.pace.take() | self.goodput.take()
    if measure and self._is_measured(number):
      if hurry:
        return line
      line |= measure(state)
    self.metrics.write(number, self.stage.steps, line)
    return None

  def note(self, number: int, unwritten: Values | None) -> dict[str, Any]:
    """For a checkpoint; unwritten: a line for the next run to complete and write."""
    return self.provenance.at(number) | {
      'pace': self.pace.counts(),
      'productive': self.goodput.productive,
      'unwritten': unwritten,
    }

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, kind, *_) -> None:
    try:
      self.metrics.close()
    except OSError:
      if kind is None:  # or there is a worse error to tell
        raise
