# SPDX-License-Identifier: Apache-2.0
"""The loop of every training: steps, log lines, checkpoints, and an end at any time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_collections

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
  config: ml_collections.ConfigDict,
  workdir: Path,
  state: State,
  feed: BatchFeed,
  update: Callable[[State, Any, jax.Array], tuple[State, dict[str, jax.Array]]],
  frozen: Mapping[str, Any],
  measure: Callable[[State], dict[str, float]] | None = None,
) -> State:
  """Trains a stage to its last step, from the newest sound checkpoint on.

  config: `config[name]` is the stage. update: one step, (state, batch, key) ->
    (state, metrics). frozen: the fingerprints of what does not train. measure: what
    else to log at every `save_every` steps.
  """
  stage = config[name]
  with contextlib.ExitStack() as stack:
    profile = stack.enter_context(contextlib.closing(Profile(workdir / 'profile')))
    checkpoints = Checkpoints(workdir / name)
    stack.callback(checkpoints.close)
    provenance = Provenance(config, frozen, feed.order, feed.ids)
    found = checkpoints.restore(state, provenance.foreign)
    journal = Journal(name, config, workdir, feed, provenance, found)
    stack.enter_context(journal)
    if found:
      state = found.state
      journal.catch_up(found, measure)
    start, key = journal.start, jax.random.key(config.seed)
    startup.mark_stage('checkpoint')
    parts, total = batch_parts(jax.sharding.get_mesh())
    steps = range(start, stage.steps)
    rows = load_batches(feed.order, feed.assemble, steps, parts=parts, total=total)
    batches = on_device(rows)
    for number, (batch, sent) in enumerate(batches, start + 1):
      if number == start + 1:
        startup.mark_stage('first batch')
      with profile.step(number):
        state, values = update(state, sent, jax.random.fold_in(key, number))
      if number == start + 1:
        startup.log_time_to_first_step(name, values)
      journal.look_back()  # while this step is at work
      journal.took(number, batch, values)
      stop = preemption.is_requested()
      last = stop or number == stage.steps
      if journal.is_due(number) or stop:
        unwritten = journal.write(number, state, measure, hurry=stop)
        saves = last or number % stage.save_every == 0
        if checkpoints.failing() or saves:
          save = checkpoints.finish if last else checkpoints.save
          save(number, state, journal.note(number, unwritten))
          journal.goodput.paused()
      profile.stop_after(number, values)
      if stop:
        raise program.Preempted(f'{name} at step {number}')
  return state


def on_device(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
  """Each batch and its copy on the device, sent while the one before is at work."""
  ahead = None
  for batch in batches:
    sent = batch, to_device(batch)
    if ahead is not None:
      yield ahead
    ahead = sent
  if ahead is not None:
    yield ahead
