# SPDX-License-Identifier: Apache-2.0
"""Asynchronous checkpoints by Orbax, with checksums, as Orbax detects no flipped bits.

A checkpoint is a folder named after its step. It contains Orbax's files and a manifest
with the caller's metadata and the checksum of every file. The folder gets its name
last, so a folder with that name is complete.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from acl_jax.runtime import barriers
from acl_jax.training.checksums import (
  DamagedError,
  Metadata,
  read_manifest,
  write_manifest,
)

NUM_KEPT = 2  # checkpoints
SAVE_MINUTES, RESTORE_MINUTES = 30.0, 90.0  # that processes wait for each other
FAILURE_SECONDS = 600.0  # that saving may fail before training stops
RETRY_SECONDS = 5.0  # between attempts when there is nothing else to do
UNFINISHED = '.orbax-checkpoint-tmp*'


class Restored(NamedTuple):
  """A restored checkpoint."""

  step: int
  state: Any
  metadata: Metadata


class Checkpoints:
  """The checkpoints of one stage of training; the newest intact one is restored.

  All processes must make the same calls in the same order.
  """

  def __init__(self, folder: str | Path):
    self.folder = Path(folder).absolute()
    self._is_leader = jax.process_index() == 0
    self._saving: tuple[int, Metadata] | None = None
    self._failure, self._failing_since = '', 0.0  # why and since when saving fails
    if self._is_leader:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._delete_old()
    logging.get_absl_logger().addFilter(_hide_orbax_tracebacks)
    options = ocp.AsyncOptions(
      timeout_secs=int(60 * SAVE_MINUTES),
      post_finalization_callback=self._write_manifest,
    )
    self._orbax = ocp.AsyncCheckpointer(
      ocp.StandardCheckpointHandler(), async_options=options
    )

  def steps(self) -> list[int]:
    """Return the steps that have a checkpoint, newest first."""
    names = (path.name for path in self.folder.iterdir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

  def save(self, step: int, state: Any, metadata: Metadata) -> None:
    """Start saving; `state` may be donated as soon as this returns.

    The first of a series of failures is logged; see `poll`.
    """
    self.wait()
    barriers.wait(f'saving {self.folder.name}/{step}', SAVE_MINUTES)
    self._saving = step, metadata
    with self._log_failures(step):
      self._orbax.save(self.folder / str(step), args=ocp.args.StandardSave(state))

  def poll(self) -> bool:
    """Check on the last save; return whether a process has failed and must save again.

    Waits for a save that retries a failed one. Raises OSError if saving has failed for
    `FAILURE_SECONDS`.
    """
    if self._failure:
      self.wait()
    elif self._saving:
      with self._log_failures(self._saving[0]):
        self._orbax.check_for_errors()
    seconds = time.monotonic() - self._failing_since if self._failure else 0.0
    longest = float(barriers.all_gather(np.asarray([seconds])).max())
    if longest > FAILURE_SECONDS:
      raise OSError(
        f'{self.folder}: no checkpoint could be saved for {longest / 60:.0f} min'
        f' ({self._failure or "on another host"}); {self._last_good()}'
      )
    return longest > 0

  def save_and_wait(self, step: int, state: Any, metadata: Metadata) -> None:
    """Save, retry while that fails, and return when the checkpoint is complete."""
    self.save(step, state, metadata)
    self.wait()
    while self.poll():
      time.sleep(RETRY_SECONDS)
      self.save(step, state, metadata)
      self.wait()

  def restore(
    self, state: Any, reject: Callable[[Metadata], str | None] = lambda metadata: None
  ) -> Restored | None:
    """Restore the newest intact checkpoint, with the structure and sharding of `state`.

    reject: returns why a checkpoint with this metadata belongs to another training, or
    None. Damaged checkpoints are moved aside and logged, and so are rejected ones if an
    accepted one exists. Raises ValueError if all intact checkpoints are rejected: the
    folder is then that of another training.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    barriers.wait(f'restoring {self.folder.name}', RESTORE_MINUTES)
    choice = json.dumps(self._choose(shapes, reject)) if self._is_leader else ''
    choice = barriers.broadcast(
      f'checkpoint of {self.folder.name}', choice, RESTORE_MINUTES
    )
    step, metadata, refusal = json.loads(choice)
    if refusal:
      raise ValueError(refusal)
    if step is None:
      return None
    arguments = ocp.args.StandardRestore(shapes)
    restored = self._orbax.restore(self.folder / str(step), args=arguments)
    barriers.wait(f'restored {self.folder.name}/{step}', RESTORE_MINUTES)
    return Restored(step, restored, metadata)

  def close(self) -> None:
    """Wait for the save in progress and release all resources."""
    self.wait()
    self._orbax.close()

  def _choose(self, shapes: Any, reject) -> tuple[int | None, Metadata, str]:
    """Return step and metadata of the checkpoint to restore, or why all are refused."""
    rejected: dict[int, str] = {}
    for step in self.steps():
      path = self.folder / str(step)
      try:
        metadata = read_manifest(path)
      except DamagedError as error:
        self._move_aside(step, str(error))
        continue
      if reason := reject(metadata) or self._mismatch(path, shapes):
        rejected[step] = reason
        continue
      for other, reason in rejected.items():
        self._move_aside(other, reason)
      return step, metadata, ''
    for step, reason in rejected.items():
      path = self.folder / str(step)
      return None, {}, f'{path}: {reason}; choose another --workdir'
    return None, {}, ''

  def _mismatch(self, path: Path, expected: Any) -> str | None:
    """Compare the shapes of a checkpoint with those of the model; reads no arrays."""
    saved = ocp.tree.to_flat_dict(self._orbax.metadata(path).item_metadata, sep='/')
    needed = ocp.tree.to_flat_dict(expected, sep='/')
    for name in sorted(saved.keys() | needed.keys()):
      actual, required = (
        f'shape {tree[name].shape}' if name in tree else 'no such array'
        for tree in (saved, needed)
      )
      if actual != required:
        return (
          'the checkpoint does not fit the model of this config:'
          f' {name} has {actual} in the checkpoint and {required} in the model'
        )
    return None

  def _move_aside(self, step: int, reason: str) -> None:
    logging.warning('checkpoint %d of %s: %s; moved aside', step, self.folder, reason)
    target = self.folder.parent / f'{self.folder.name}-broken'
    target.mkdir(exist_ok=True)
    shutil.move(self.folder / str(step), target / f'{step}-{time.time_ns()}')

  def _write_manifest(self) -> None:
    """Orbax's callback in process 0: the files are complete, the folder is unnamed."""
    assert self._saving
    step, metadata = self._saving
    (unfinished,) = self.folder.glob(f'{step}{UNFINISHED}')
    # Orbax writes to this file again, and can restore without it.
    write_manifest(unfinished, metadata, exclude='_CHECKPOINT_METADATA')

  def wait(self) -> None:
    """Wait until the save in progress has succeeded or failed."""
    if not self._saving:
      return
    with self._log_failures(self._saving[0]):
      self._orbax.wait_until_finished()
      if self._failure:
        logging.warning('%s: checkpoints can be saved again', self.folder)
      self._failure = ''
    self._saving = None
    if self._is_leader:
      self._delete_old()

  @contextmanager
  def _log_failures(self, step: int) -> Iterator[None]:
    """Suppress errors of a save, record them, and log the first of a series."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore raise many types
      self._saving = None
      if not self._failure:
        self._failing_since = time.monotonic()
        self._failure = _failure_reason(error)
        logging.warning(
          f'{self.folder}: checkpoint {step} cannot be saved ({self._failure});'
          ' training continues and retries; it stops after'
          f' {FAILURE_SECONDS / 60:.0f} min of failures; {self._last_good()}'
        )

  def _last_good(self) -> str:
    steps = self.steps()
    return f'the last good one is {steps[0]}' if steps else 'there is none yet'

  def _delete_old(self) -> None:
    """Delete unfinished checkpoints and all but the newest complete ones."""
    old = [self.folder / str(step) for step in self.steps()[NUM_KEPT:]]
    for path in [*old, *self.folder.glob(f'*{UNFINISHED}')]:
      shutil.rmtree(path, ignore_errors=True)


def _failure_reason(error: Exception) -> str:
  """Return the system's error message, which TensorStore buries in a longer one."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if match := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(match[1]))
  return ' '.join(str(error).split())[:200] or type(error).__name__


def _hide_orbax_tracebacks(record) -> bool:
  """Filter out Orbax's log records of errors that it also raises."""
  return not (record.exc_info and 'orbax' in Path(record.pathname).parts)
