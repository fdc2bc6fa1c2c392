# SPDX-License-Identifier: Apache-2.0
"""Metrics: a JSON object per log step, TensorBoard beside it, a line on the console."""

import errno
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging

from acl_jax.runtime import barriers, program
from acl_jax.runtime.files import write_atomically

# These depend on the machine and on what happened to it. All other metrics of a run
# that was interrupted are, to the last bit, those of one that was not.
TIME_METRICS = ('audio_hours_per_second', 'goodput', 'restarts', 'lost_steps')


class MetricsWriter:
  """Writes `workdir/metrics.jsonl`, which an interrupted run continues.

  Of several processes, the first one writes.
  """

  def __init__(self, workdir: str | Path, stage: str):
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self.path = workdir / 'metrics.jsonl'
    self.stage = stage
    self._leads = jax.process_index() == 0
    self._unwritten = b''
    if self._leads:
      self.board = _tensorboard(workdir / 'tensorboard' / stage)

  def forget_after(self, step: int) -> None:
    """Drops what was written beyond the checkpoint that a run continues from."""
    if not self._leads or not self.path.exists():
      return
    lines = self.path.read_text().splitlines(keepends=True)
    # A run that was killed may have left half a line.
    entries = [json.loads(line) for line in lines if line.endswith('\n')]
    kept = [e for e in entries if e['stage'] != self.stage or e['step'] <= step]
    write_atomically(self.path, ''.join(json.dumps(entry) + '\n' for entry in kept))

  def write(self, step: int, total: int, values: Mapping[str, float | int]) -> None:
    """A JSON object, a line on the console, and points in TensorBoard.

    What a full disk does not take is written later.
    """
    if not self._leads:
      return
    entry, waited = {'stage': self.stage, 'step': step, **values}, self._unwritten
    self._unwritten += (json.dumps(entry) + '\n').encode()
    shown = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
    try:
      self._write_out()
      print(f'{self.stage} {step}/{total}  {shown}', flush=True)
    except OSError as error:
      if not waited:
        logging.warning('%s; it is tried again', program.error_message(error))
      return
    # Where its thread has died, tensorboardX would wait for it, and for ever.
    if self.board.file_writer.event_writer._worker.is_alive():
      for name, value in values.items():
        self.board.add_scalar(name, value, step)

  def _write_out(self) -> None:
    """Appends all lines, or none."""
    with self.path.open('ab', buffering=0) as file:
      end = file.seek(0, os.SEEK_END)
      try:
        if file.write(self._unwritten) < len(self._unwritten):  # it took a part
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      except OSError as error:
        file.truncate(end)
        raise OSError(error.errno, error.strerror, str(self.path)) from None
    self._unwritten = b''

  def close(self) -> None:
    """OSError if there are lines that cannot be written."""
    if self._leads:
      self.board.close()
      if self._unwritten:
        self._write_out()


def _tensorboard(folder: Path):
  """A writer of tensorboardX, which imports torch where it is installed: not for us."""
  hidden = sys.modules.setdefault('torch', None)  # type: ignore[arg-type]
  try:
    from tensorboardX import SummaryWriter
  finally:
    if hidden is None:
      del sys.modules['torch']
  return SummaryWriter(str(folder))


class Throughput:
  """How much speech passed since the last log line, and how much of it was padding."""

  def __init__(self, frame_seconds: float, counts: dict | None = None):
    """counts: where an interrupted run stood, see `counts`."""
    self.frame_seconds = frame_seconds
    self.start, self.heard = time.monotonic(), 0
    self.filled: dict[str, int] = dict(counts['filled']) if counts else {}
    self.places: dict[str, int] = dict(counts['places']) if counts else {}

  def add(self, batch) -> None:
    """Counts a batch: recordings, or (recordings, prompts and responses)."""
    if hasattr(batch, 'segment_ids'):
      sound = batch
    else:
      sound, response = batch
      self._count('llm_padding_waste', response.prompt.segment_ids)
    self.heard += self._count('padding_waste', sound.segment_ids)

  def _count(self, name: str, segment_ids: np.ndarray) -> int:
    filled = int(np.count_nonzero(segment_ids))
    self.filled[name] = self.filled.get(name, 0) + filled
    self.places[name] = self.places.get(name, 0) + segment_ids.size
    return filled

  def counts(self) -> dict[str, dict[str, int]]:
    """What a checkpoint keeps: the next line also counts what came before it."""
    return {'filled': dict(self.filled), 'places': dict(self.places)}

  def take(self) -> dict[str, float]:
    """The rates since the last call, of all processes together."""
    seconds = max(time.monotonic() - self.start, 1e-9)
    names = sorted(self.places)
    mine = [*map(self.filled.get, names), *map(self.places.get, names), self.heard]
    *counts, heard = barriers.all_gather(np.asarray(mine)).sum(axis=0).tolist()
    filled, places = counts[: len(names)], counts[len(names) :]
    rates = {'audio_hours_per_second': heard * self.frame_seconds / 3600 / seconds}
    for name, some, all_places in zip(names, filled, places, strict=True):
      rates[name] = 1 - some / all_places
    self.__init__(self.frame_seconds)
    return rates
