# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax, with our own checksums: Orbax does not notice a flipped bit."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging


class Checkpoints:
  """The checkpoints of one stage of training; the newest sound one is restored."""

  def __init__(self, folder: str | Path):
    self.folder = Path(folder).absolute()
    self.folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
      max_to_keep=2, enable_async_checkpointing=False
    )
    self.manager = ocp.CheckpointManager(
      self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
    )

  def save(self, step: int, state: Any) -> None:
    """Saves, notes the checksums, and forgets all checkpoints but the last two."""
    self.manager.save(step, args=ocp.args.StandardSave(state), force=True)
    self.manager.wait_until_finished()
    note = json.dumps(_checksums(self.folder / str(step)))
    unfinished = self._note(step).with_suffix('.unfinished')
    unfinished.write_text(note)
    unfinished.replace(self._note(step))
    kept = {self._note(step) for step in self.manager.all_steps()}
    for note in set(self.folder.glob('checksums-*.json')) - kept:
      note.unlink()

  def restore(self, state: Any) -> tuple[int, Any] | None:
    """The newest sound checkpoint, in the structure and sharding of `state`."""
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    for step in sorted(self.manager.all_steps(), reverse=True):
      if broken := self._broken(step):
        logging.warning('checkpoint %d of %s: %s; set aside', step, self.folder, broken)
        self._set_aside(step)
        continue
      self._check_shapes(step, shapes)
      return step, self.manager.restore(step, args=ocp.args.StandardRestore(shapes))
    return None

  def close(self) -> None:
    self.manager.close()

  def _check_shapes(self, step: int, expected: Any) -> None:
    """Refuses a checkpoint of another model before any of its arrays is read."""
    saved = ocp.tree.to_flat_dict(self.manager.item_metadata(step), sep='/')
    wanted = ocp.tree.to_flat_dict(expected, sep='/')
    for name in sorted(saved.keys() | wanted.keys()):
      has, needs = (
        f'shape {tree[name].shape}' if name in tree else 'no such array'
        for tree in (saved, wanted)
      )
      if has != needs:
        raise ValueError(
          f'{self.folder / str(step)}: the checkpoint is of another model than this'
          f' config makes: {name} has {has} in it and {needs} in the config; choose'
          ' another --workdir'
        )

  def _note(self, step: int) -> Path:
    return self.folder / f'checksums-{step}.json'

  def _broken(self, step: int) -> str | None:
    note = self._note(step)
    if not note.exists():
      return 'it has no checksums, so its saving did not end'
    try:
      then = json.loads(note.read_text())
    except ValueError:
      return 'its checksums cannot be read'
    now = _checksums(self.folder / str(step))
    for name, checksum in then.items():
      if name not in now:
        return f'file {name} is missing'
      if now[name] != checksum:
        return f'file {name} has changed since it was saved'
    return None

  def _set_aside(self, step: int) -> None:
    aside = self.folder.parent / f'{self.folder.name}-broken'
    aside.mkdir(exist_ok=True)
    shutil.move(self.folder / str(step), aside / f'{step}-{os.getpid()}')
    self.manager.reload()


def _checksums(folder: Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
