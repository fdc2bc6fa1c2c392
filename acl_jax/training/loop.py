# SPDX-License-Identifier: Apache-2.0
"""The loop of every training: steps, log lines, checkpoints, and an end at any time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import ml_collections

from acl_jax import program
from acl_jax.parallel.arrays import send
from acl_jax.parallel.mesh import parts_of_batch
from acl_jax.training import preemption
from acl_jax.training.checkpoint import Checkpoints
from acl_jax.training.metrics import Metrics, Pace
from data_pipeline.batches import Batch
from data_pipeline.loader import load

State = TypeVar('State')


class Feed(NamedTuple):
  """Batches: their order, how each is put together, the seconds of a frame in them."""

  order: Sequence[Batch]
  assemble: Callable
  frame_seconds: float


def run(
  name: str,
  stage: ml_collections.ConfigDict,
  workdir: Path,
  state: State,
  feed: Feed,
  update: Callable[[State, Any, jax.Array], tuple[State, dict[str, jax.Array]]],
  seed: int,
  measure: Callable[[State], dict[str, float]] | None = None,
) -> State:
  """Trains for `stage.steps` steps, from the newest sound checkpoint on.

  update: one step, (state, batch, key) -> (state, metrics). measure: what else to log
    whenever a checkpoint is saved.
  """
  checkpoints = Checkpoints(workdir / name)
  metrics, pace = Metrics(workdir, name), Pace(feed.frame_seconds)
  start = 0
  if found := checkpoints.restore(state):
    start, state = found
    print(f'{name}: continues at step {start} of {stage.steps}', flush=True)
  metrics.forget_after(start)
  key = jax.random.key(seed)
  steps = range(start, stage.steps)
  parts, total = parts_of_batch(jax.sharding.get_mesh())
  rows = load(feed.order, feed.assemble, steps, parts=parts, total=total)
  batches = on_device(rows)
  for number, (batch, sent) in enumerate(batches, start + 1):
    state, values = update(state, sent, jax.random.fold_in(key, number))
    pace.add(batch)
    stop = preemption.preempted()
    keep = stop or number % stage.save_every == 0 or number == stage.steps
    if keep or number % stage.log_every == 0:  # what is not a number is never kept
      measured = measure(state) if keep and measure and not stop else {}
      values = jax.tree.map(float, values) | pace.take() | measured
      metrics.write(number, stage.steps, values)
    if keep:
      checkpoints.save(number, state)
    if stop:
      raise program.Preempted(f'{name} at step {number}')
  checkpoints.close()
  metrics.close()
  return state


def on_device(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
  """Each batch and its copy on the device, sent while the one before is at work."""
  ahead = None
  for batch in batches:
    sent = batch, send(batch)
    if ahead is not None:
      yield ahead
    ahead = sent
  if ahead is not None:
    yield ahead
