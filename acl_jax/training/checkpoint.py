# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax, saved while training goes on, with our own checksums: Orbax
does not notice a flipped bit.

A checkpoint is a folder named after its step: Orbax' files, and a note with what its
maker says of it and the checksum of every file. The folder gets its name last, so one
of that name is whole.
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
  Manifest,
  read_manifest,
  write_manifest,
)

KEEP = 2  # checkpoints
SAVE_MINUTES, RESTORE_MINUTES = 30.0, 90.0  # min that processes wait for each other
FAILURE_SECONDS = 600.0  # s that saving may fail before training ends
RETRY_SECONDS = 5.0  # s between attempts when there is nothing else to do
UNFINISHED = '.orbax-checkpoint-tmp*'


class Restored(NamedTuple):
  """What was restored."""

  step: int
  state: Any
  note: Manifest


class Checkpoints:
  """The checkpoints of one stage of training; the newest sound one is restored.

  All processes make the same calls in the same order.
  """

  def __init__(self, folder: str | Path):
    self.folder = Path(folder).absolute()
    self._leads = jax.process_index() == 0
    self._saving: tuple[int, Manifest] | None = None
    self._trouble, self._since = '', 0.0  # why nothing can be saved, since when
    if self._leads:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._tidy()
    logging.get_absl_logger().addFilter(_hide_orbax_tracebacks)
    options = ocp.AsyncOptions(
      timeout_secs=int(60 * SAVE_MINUTES), post_finalization_callback=self._write_note
    )
    self._orbax = ocp.AsyncCheckpointer(
      ocp.StandardCheckpointHandler(), async_options=options
    )

  def steps(self) -> list[int]:
    """The steps of which there are checkpoints, the newest first."""
    names = (path.name for path in self.folder.iterdir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

  def save(self, step: int, state: Any, note: Manifest) -> None:
    """Begins to save; `state` may be given away when this returns.

    What goes wrong, now or later, is said once, and `failing` knows of it.
    """
    self._wait()
    barriers.wait(f'saving {self.folder.name}/{step}', SAVE_MINUTES)
    self._saving = step, note
    with self._noticing(step):
      self._orbax.save(self.folder / str(step), args=ocp.args.StandardSave(state))

  def failing(self) -> bool:
    """Whether a process cannot save, so that it should be tried again.

    OSError if that has been so for longer than `GRACE`.
    """
    if self._trouble:
      self._wait()
    elif self._saving:
      with self._noticing(self._saving[0]):
        self._orbax.check_for_errors()
    seconds = time.monotonic() - self._since if self._trouble else 0.0
    longest = float(barriers.all_gather(np.asarray([seconds])).max())
    if longest > FAILURE_SECONDS:
      raise OSError(
        f'{self.folder}: no checkpoint could be saved for {longest / 60:.0f} min'
        f' ({self._trouble or "on another host"}); {self._last_good()}'
      )
    return longest > 0

  def finish(self, step: int, state: Any, note: Manifest) -> None:
    """Saves, and returns when it is saved; tries again while that fails."""
    self.save(step, state, note)
    self._wait()
    while self.failing():
      time.sleep(RETRY_SECONDS)
      self.save(step, state, note)
      self._wait()

  def restore(
    self, state: Any, foreign: Callable[[Manifest], str | None] = lambda note: None
  ) -> Restored | None:
    """The newest sound checkpoint, in the structure and sharding of `state`.

    foreign: why a checkpoint with such a note is not one of this training, if so. What
    is damaged or foreign is set aside, and said; ValueError if all that is sound is
    foreign, for then it is another training's folder.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    barriers.wait(f'restoring {self.folder.name}', RESTORE_MINUTES)
    chosen = json.dumps(self._choose(shapes, foreign)) if self._leads else ''
    chosen = barriers.broadcast(
      f'checkpoint of {self.folder.name}', chosen, RESTORE_MINUTES
    )
    step, note, refusal = json.loads(chosen)
    if refusal:
      raise ValueError(refusal)
    if step is None:
      return None
    arguments = ocp.args.StandardRestore(shapes)
    found = self._orbax.restore(self.folder / str(step), args=arguments)
    barriers.wait(f'restored {self.folder.name}/{step}', RESTORE_MINUTES)
    return Restored(step, found, note)

  def close(self) -> None:
    """Waits for what is being saved."""
    self._wait()
    self._orbax.close()

  def _choose(self, shapes: Any, foreign) -> tuple[int | None, Manifest, str]:
    """Step and note of the checkpoint to restore; or why those here are refused."""
    refused: dict[int, str] = {}
    for step in self.steps():
      path = self.folder / str(step)
      try:
        note = read_manifest(path)
      except DamagedError as damage:
        self._set_aside(step, str(damage))
        continue
      if why := foreign(note) or self._unlike(path, shapes):
        refused[step] = why
        continue
      for other, reason in refused.items():
        self._set_aside(other, reason)
      return step, note, ''
    for step, why in refused.items():
      return None, {}, f'{self.folder / str(step)}: {why}; choose another --workdir'
    return None, {}, ''

  def _unlike(self, path: Path, expected: Any) -> str | None:
    """What makes a checkpoint one of another model, before any array is read."""
    saved = ocp.tree.to_flat_dict(self._orbax.metadata(path).item_metadata, sep='/')
    wanted = ocp.tree.to_flat_dict(expected, sep='/')
    for name in sorted(saved.keys() | wanted.keys()):
      has, needs = (
        f'shape {tree[name].shape}' if name in tree else 'no such array'
        for tree in (saved, wanted)
      )
      if has != needs:
        return (
          'the checkpoint is of another model than this config makes:'
          f' {name} has {has} in it and {needs} in the config'
        )
    return None

  def _set_aside(self, step: int, why: str) -> None:
    logging.warning('checkpoint %d of %s: %s; set aside', step, self.folder, why)
    aside = self.folder.parent / f'{self.folder.name}-broken'
    aside.mkdir(exist_ok=True)
    shutil.move(self.folder / str(step), aside / f'{step}-{time.time_ns()}')

  def _write_note(self) -> None:
    """Called in the first process when all files are there, under another name yet."""
    assert self._saving
    step, note = self._saving
    (unfinished,) = self.folder.glob(f'{step}{UNFINISHED}')
    # Orbax writes to this file again, and restores without it.
    write_manifest(unfinished, note, but='_CHECKPOINT_METADATA')

  def _wait(self) -> None:
    """Until what is being saved is saved, or has failed."""
    if not self._saving:
      return
    with self._noticing(self._saving[0]):
      self._orbax.wait_until_finished()
      if self._trouble:
        logging.warning('%s: checkpoints can be saved again', self.folder)
      self._trouble = ''
    self._saving = None
    if self._leads:
      self._tidy()

  @contextmanager
  def _noticing(self, step: int) -> Iterator[None]:
    """Says what goes wrong with a save, the first time, and since when it does."""
    try:
      yield
    except Exception as error:  # whatever Orbax and TensorStore make of a full disk
      self._saving = None
      if not self._trouble:
        self._since = time.monotonic()
        self._trouble = _failure_reason(error)
        logging.warning(
          '%s: checkpoint %d cannot be saved (%s); training goes on, tries again and'
          ' ends if that fails for %.0f min; %s',
          *(self.folder, step, self._trouble, FAILURE_SECONDS / 60, self._last_good()),
        )

  def _last_good(self) -> str:
    steps = self.steps()
    return f'the last good one is {steps[0]}' if steps else 'there is none yet'

  def _tidy(self) -> None:
    """Deletes what was not finished, and all checkpoints but the newest."""
    old = (self.folder / str(step) for step in self.steps()[KEEP:])
    for path in [*old, *self.folder.glob(f'*{UNFINISHED}')]:
      shutil.rmtree(path, ignore_errors=True)


def _failure_reason(error: Exception) -> str:
  """What the operating system says, which is deep inside an error of TensorStore."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  return ' '.join(str(error).split())[:200] or type(error).__name__


def _hide_orbax_tracebacks(record) -> bool:
  """It also logs the errors that it raises."""
  return not (record.exc_info and 'orbax' in Path(record.pathname).parts)
