# SPDX-License-Identifier: Apache-2.0
"""Metrics: lines of JSON, TensorBoard, and a line on the console per log step."""

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

# These depend on the machine and its interruptions. All other metrics of an interrupted
# run are bitwise those of an uninterrupted one.
TIME_METRICS = ('audio_hours_per_second', 'goodput', 'restarts', 'lost_steps')


class MetricsWriter:
  """Writes `workdir/metrics.jsonl`, which a restarted run continues.

  Only process 0 writes.
  """

  def __init__(self, workdir: str | Path, stage: str):
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self.path = workdir / 'metrics.jsonl'
    self.stage = stage
    self._is_leader = jax.process_index() == 0
    self._unwritten = b''
    if self._is_leader:
      self.board = _tensorboard(workdir / 'tensorboard' / stage)

  def truncate_after(self, step: int) -> None:
    """Delete the entries of this stage after `step`, where the run resumes."""
    if not self._is_leader or not self.path.exists():
      return
    lines = self.path.read_text().splitlines(keepends=True)
    # A killed run may have left an incomplete line.
    entries = [json.loads(line) for line in lines if line.endswith('\n')]
    kept = [e for e in entries if e['stage'] != self.stage or e['step'] <= step]
    write_atomically(self.path, ''.join(json.dumps(entry) + '\n' for entry in kept))

  def write(self, step: int, total: int, values: Mapping[str, float | int]) -> None:
    """Write the metrics of a step: JSON, console and TensorBoard.

    Entries that do not fit on a full disk are written with a later one.
    """
    if not self._is_leader:
      return
    entry = {'stage': self.stage, 'step': step, **values}
    was_failing = bool(self._unwritten)
    self._unwritten += (json.dumps(entry) + '\n').encode()
    formatted = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
    try:
      self._append_unwritten()
      print(f'{self.stage} {step}/{total}  {formatted}', flush=True)
    except OSError as error:
      if not was_failing:
        logging.warning('%s; will be retried', program.error_message(error))
      return
    # If its thread has died, tensorboardX would wait for it forever.
    if self.board.file_writer.event_writer._worker.is_alive():
      for name, value in values.items():
        self.board.add_scalar(name, value, step)

  def _append_unwritten(self) -> None:
    """Append all unwritten lines to the file, or none."""
    with self.path.open('ab', buffering=0) as file:
      end = file.seek(0, os.SEEK_END)
      try:
        if file.write(self._unwritten) < len(self._unwritten):
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      except OSError as error:
        file.truncate(end)
        raise OSError(error.errno, error.strerror, str(self.path)) from None
    self._unwritten = b''

  def close(self) -> None:
    """Close the files; OSError if some lines cannot be written."""
    if self._is_leader:
      self.board.close()
      if self._unwritten:
        self._append_unwritten()


def _tensorboard(folder: Path):
  """Return a tensorboardX writer, without the torch that it imports if available."""
  torch_module = sys.modules.setdefault('torch', None)  # type: ignore[arg-type]
  try:
    from tensorboardX import SummaryWriter
  finally:
    if torch_module is None:
      del sys.modules['torch']
  return SummaryWriter(str(folder))


class Throughput:
  """Measures audio per second and the share of padding between two log lines."""

  def __init__(self, frame_seconds: float, counts: dict | None = None):
    """counts: of an interrupted run, see `counts`."""
    self.frame_seconds = frame_seconds
    self._reset(counts or {'filled': {}, 'places': {}})

  def _reset(self, counts: dict[str, dict[str, int]]) -> None:
    self.start, self.num_frames = time.monotonic(), 0
    self.num_real: dict[str, int] = dict(counts['filled'])
    self.num_total: dict[str, int] = dict(counts['places'])

  def add(self, batch) -> None:
    """Count a batch: audio, or (audio, prompts and responses)."""
    if hasattr(batch, 'segment_ids'):
      audio = batch
    else:
      audio, response = batch
      self._count('llm_padding_waste', response.prompt.segment_ids)
    self.num_frames += self._count('padding_waste', audio.segment_ids)

  def _count(self, name: str, segment_ids: np.ndarray) -> int:
    """Add positions to the counts of `name`; return how many are not padding."""
    num_real = int(np.count_nonzero(segment_ids))
    self.num_real[name] = self.num_real.get(name, 0) + num_real
    self.num_total[name] = self.num_total.get(name, 0) + segment_ids.size
    return num_real

  def counts(self) -> dict[str, dict[str, int]]:
    """Return the counts for a checkpoint, so that the next line includes them."""
    return {'filled': dict(self.num_real), 'places': dict(self.num_total)}

  def metrics(self) -> dict[str, float]:
    """Return the rates of all processes since the last call, and reset the counts."""
    seconds = max(time.monotonic() - self.start, 1e-9)
    names = sorted(self.num_total)
    counts = [self.num_frames]
    counts += [self.num_real[name] for name in names]
    counts += [self.num_total[name] for name in names]
    sums = barriers.all_gather(np.asarray(counts)).sum(axis=0).tolist()
    num_frames, num_real = sums[0], sums[1 : 1 + len(names)]
    num_total = sums[1 + len(names) :]
    hours = num_frames * self.frame_seconds / 3600
    rates = {'audio_hours_per_second': hours / seconds}
    for name, real, total in zip(names, num_real, num_total, strict=True):
      rates[name] = 1 - real / total
    self._reset({'filled': {}, 'places': {}})
    return rates
