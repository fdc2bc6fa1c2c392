# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, log lines, checkpoints, preemption and resumption."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from acl_jax.config.experiment import Experiment, to_json
from acl_jax.config.stages import StageConfig
from acl_jax.runtime import preemption, program
from acl_jax.sharding.arrays import to_device
from acl_jax.sharding.mesh import batch_parts
from acl_jax.training import startup
from acl_jax.training.checkpoint import Checkpoints
from acl_jax.training.journal import BatchFeed, Journal
from acl_jax.training.profiling import Profile
from acl_jax.training.provenance import Provenance
from data_pipeline.loader import load_batches

State = TypeVar('State')


def run(
  name: str,
  config: Experiment,
  workdir: Path,
  state: State,
  feed: BatchFeed,
  update: Callable[[State, Any, jax.Array], tuple[State, dict[str, jax.Array]]],
  frozen: Mapping[str, Any],
  measure: Callable[[State], dict[str, float]] | None = None,
) -> State:
  """Train a stage to its last step, from the newest intact checkpoint if there is one.

  name: of the stage, which is `config.<name>`. state: the initial one. update: one
  step, (state, batch, key) -> (state, metrics). frozen: fingerprints of the frozen
  models. measure: returns further metrics every `save_every` steps.
  Returns: the final state. Raises `Preempted` after saving, and FloatingPointError if a
  metric is not finite.
  """
  stage: StageConfig = getattr(config, name)
  with contextlib.ExitStack() as stack:
    profile = stack.enter_context(contextlib.closing(Profile(workdir / 'profile')))
    checkpoints = Checkpoints(workdir / name)
    stack.callback(checkpoints.close)
    provenance = Provenance(to_json(config), frozen, feed.order, feed.ids)
    restored = checkpoints.restore(state, provenance.rejection_reason)
    journal = Journal(name, stage, workdir, feed, provenance, restored)
    stack.enter_context(journal)
    if restored:
      state = restored.state
      journal.replay_log(restored, measure)
    start, key = journal.start, jax.random.key(config.seed)
    startup.mark_stage('checkpoint')
    parts, total = batch_parts(jax.sharding.get_mesh())
    numbers = range(start, stage.steps)
    batches = load_batches(feed.order, feed.assemble, numbers, parts=parts, total=total)
    for step, (batch, arrays) in enumerate(prefetch_to_device(batches), start + 1):
      if step == start + 1:
        startup.mark_stage('first batch')
      with saving_if_preempted(step - 1, state, journal, checkpoints):
        arrays = journal.add_answers(step, state, batch, arrays)
      with profile.step(step):
        state, values = update(state, arrays, jax.random.fold_in(key, step))
      if step == start + 1:
        startup.log_time_to_first_step(name, step, values, workdir)
        stack.enter_context(preemption.deferred())  # now there is something to save
      journal.flush_previous_step()  # while the device runs this step
      journal.record_step(step, batch, values)
      stop = preemption.is_requested()
      if journal.is_logged(step) or stop:
        unwritten = journal.write(step, state, measure, defer=stop)
        stop = stop or unwritten is not None
        last = stop or step == stage.steps
        if checkpoints.poll() or last or step % stage.save_every == 0:
          save = checkpoints.save_and_wait if last else checkpoints.save
          save(step, state, journal.metadata(step, unwritten))
          journal.goodput.pause()
      profile.stop_after(step, values)
      if stop:
        raise program.Preempted(f'{name} at step {step}')
  return state


@contextlib.contextmanager
def saving_if_preempted(
  step: int, state: Any, journal: Journal, checkpoints: Checkpoints
) -> Iterator[None]:
  """Save the last step if the block, which follows it in one process, is preempted."""
  try:
    yield
  except program.Preempted:
    checkpoints.wait()
    if step > journal.start and step not in checkpoints.steps():
      checkpoints.save_and_wait(step, state, journal.metadata(step, None))
    raise


def prefetch_to_device(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
  """Yield each batch and its copy on the device, transferred one step ahead."""
  ahead = None
  for batch in batches:
    transferred = batch, to_device(batch)
    if ahead is not None:
      yield ahead
    ahead = transferred
  if ahead is not None:
    yield ahead
