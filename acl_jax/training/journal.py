# SPDX-License-Identifier: Apache-2.0
"""The records of a stage of training: log lines, and metadata of checkpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from acl_jax.config.stages import StageConfig
from acl_jax.runtime.sigterm import Preempted
from acl_jax.training.checkpoint import Restored
from acl_jax.training.goodput import Goodput
from acl_jax.training.metrics import MetricsWriter, Throughput
from acl_jax.training.on_policy import OnPolicy
from acl_jax.training.provenance import Provenance
from data_pipeline.batches import BatchPlan

Values = dict[str, float | int]
Measure = Callable[[Any], Values]


class BatchFeed(NamedTuple):
  """The batches of a stage.

  order: the plan of every batch. assemble: loads the arrays of a plan. frame_seconds:
  duration of a frame in them. ids: of the utterances that the plans refer to.
  on_policy: adds the student's own answers to the arrays.
  """

  order: Sequence[BatchPlan]
  assemble: Callable[[BatchPlan], Any]
  frame_seconds: float
  ids: Sequence[str]
  on_policy: OnPolicy | None = None


class Journal:
  """Records one stage over all its restarts."""

  def __init__(
    self,
    name: str,
    stage: StageConfig,
    workdir: Path,
    feed: BatchFeed,
    provenance: Provenance,
    restored: Restored | None,
  ):
    """restored: the checkpoint from which the run resumes."""
    self.name, self.stage, self.feed = name, stage, feed
    self.provenance = provenance
    self.start, metadata = (restored.step, restored.metadata) if restored else (0, {})
    self.metrics = MetricsWriter(workdir, name)
    self.metrics.truncate_after(self.start)
    self.throughput = Throughput(feed.frame_seconds, metadata.get('pace'))
    path, productive = workdir / f'goodput-{name}.json', metadata.get('productive', 0.0)
    self.goodput = Goodput(path, self.start, productive)
    self._previous: tuple[int, Mapping[str, jax.Array]] | None = None
    if feed.on_policy and restored:
      feed.on_policy.restore(metadata.get('on_policy') or {})

  def replay_log(self, restored: Restored, measure: Measure | None) -> None:
    """Log where the run resumes, and write the log line that was deferred to it."""
    step, total = restored.step, self.stage.steps
    print(f'{self.name}: continues at step {step} of {total}', flush=True)
    if changes := self.provenance.describe_changes(restored.metadata):
      logging.warning('%s: the config has changed: %s', self.name, changes)
    if line := restored.metadata['unwritten']:
      measured = measure(restored.state) if measure else {}
      self.metrics.write(step, total, line | measured)

  def add_answers(self, step: int, state: Any, batch: Any, arrays: Any) -> Any:
    """Return the arrays of a step with the student's answers, if it has any.

    state: before the step. batch: the arrays on the host.
    """
    if self.feed.on_policy is None:
      return arrays
    self.flush_previous_step()  # no answers of parameters that are not finite
    return self.feed.on_policy.extend(step, state, batch, arrays)

  def record_step(self, step: int, batch: Any, values: Mapping[str, jax.Array]) -> None:
    """Record that a step was dispatched.

    values: its metrics, which may not be computed yet.
    """
    self.throughput.add(batch)
    self.goodput.add_step(step)
    self._previous = step, values

  def flush_previous_step(self) -> Values:
    """Wait for the metrics of the previous step and return them.

    If one of them is not finite, they are written, the utterances of the batch are
    logged, and FloatingPointError is raised.
    """
    if self._previous is None:
      return {}
    step, arrays = self._previous
    self._previous = None
    values = jax.tree.map(float, dict(arrays))
    for key, value in values.items():
      if not math.isfinite(value):
        self.metrics.write(step, self.stage.steps, values)
        ids = ' '.join(self.feed.ids[i] for i in self.feed.order[step - 1].indices)
        logging.error('%s: the utterances of step %d: %s', self.name, step, ids)
        raise FloatingPointError(
          f'{key} of stage {self.name} is {value} at step {step}. Its utterances are'
          ' logged above; the last checkpoint is from an earlier step'
        )
    return values

  def is_logged(self, step: int) -> bool:
    """Return whether a step has a log line, in an interrupted run or not."""
    return step % self.stage.log_every == 0 or self._is_measured(step)

  def _is_measured(self, step: int) -> bool:
    return step % self.stage.save_every == 0 or step == self.stage.steps

  def write(
    self, step: int, state: Any, measure: Measure | None, defer: bool
  ) -> Values | None:
    """Wait for the previous step and write its log line, if it has one.

    measure: returns further metrics at every save; it may raise `Preempted`. defer: do
    not take the time to measure. In both cases the line is returned, and the next run
    completes and writes it.
    """
    values = self.flush_previous_step()
    if not self.is_logged(step):
      return None
    line = values | self.throughput.metrics() | self.goodput.metrics()
    if measure and self._is_measured(step):
      if defer:
        return line
      try:
        line |= measure(state)
      except Preempted:
        return line
    self.metrics.write(step, self.stage.steps, line)
    return None

  def metadata(self, step: int, unwritten: Values | None) -> dict[str, Any]:
    """Return the metadata of a checkpoint.

    unwritten: the log line that `write` returned.
    """
    metadata = self.provenance.metadata(step) | {
      'pace': self.throughput.counts(),
      'productive': self.goodput.productive,
      'unwritten': unwritten,
    }
    if self.feed.on_policy:
      metadata['on_policy'] = self.feed.on_policy.metadata(step)
    return metadata

  def __enter__(self) -> 'Journal':
    return self

  def __exit__(self, kind, *_) -> None:
    try:
      self.metrics.close()
    except OSError:
      if kind is None:  # otherwise it would hide the error that ended the run
        raise
