# SPDX-License-Identifier: Apache-2.0
"""Metrics: a JSON object per log step, TensorBoard beside it, a line on the console."""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np


class Metrics:
  """Writes `workdir/metrics.jsonl`, which an interrupted run continues."""

  def __init__(self, workdir: str | Path, stage: str):
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self.path = workdir / 'metrics.jsonl'
    self.stage = stage
    self.board = _tensorboard(workdir / 'tensorboard' / stage)

  def forget_after(self, step: int) -> None:
    """Drops what was written beyond the checkpoint that a run continues from."""
    if not self.path.exists():
      return
    lines = self.path.read_text().splitlines(keepends=True)
    # A run that was killed may have left half a line.
    entries = [json.loads(line) for line in lines if line.endswith('\n')]
    kept = [e for e in entries if e['stage'] != self.stage or e['step'] <= step]
    unfinished = self.path.with_suffix('.unfinished')
    unfinished.write_text(''.join(json.dumps(entry) + '\n' for entry in kept))
    unfinished.replace(self.path)

  def write(self, step: int, total: int, values: dict[str, float]) -> None:
    """Writes everywhere, then raises if one of them is not a finite number."""
    entry = {'stage': self.stage, 'step': step, **values}
    with self.path.open('a') as file:
      file.write(json.dumps(entry) + '\n')
    for name, value in values.items():
      self.board.add_scalar(name, value, step)
    shown = '  '.join(f'{name} {value:.4g}' for name, value in values.items())
    print(f'{self.stage} {step}/{total}  {shown}', flush=True)
    for name, value in values.items():
      if not math.isfinite(value):
        raise FloatingPointError(
          f'{name} of stage {self.stage} is {value} at step {step}; the last checkpoint'
          ' is from before'
        )

  def close(self) -> None:
    self.board.close()


def _tensorboard(folder: Path):
  """A writer of tensorboardX, which imports torch where it is installed: not for us."""
  hidden = sys.modules.setdefault('torch', None)  # type: ignore[arg-type]
  try:
    from tensorboardX import SummaryWriter
  finally:
    if hidden is None:
      del sys.modules['torch']
  return SummaryWriter(str(folder))


class Pace:
  """How much speech passed since the last log line, and how much of it was padding."""

  def __init__(self, frame_seconds: float):
    self.frame_seconds = frame_seconds
    self.start = time.monotonic()
    self.filled: dict[str, int] = {}
    self.places: dict[str, int] = {}

  def add(self, batch) -> None:
    """Counts a batch: recordings, or (recordings, prompts and responses)."""
    if hasattr(batch, 'segment_ids'):
      return self._count('padding_waste', batch.segment_ids)
    sound, response = batch
    self._count('padding_waste', sound.segment_ids)
    self._count('llm_padding_waste', response.prompt.segment_ids)

  def _count(self, name: str, segment_ids: np.ndarray) -> None:
    filled = int(np.count_nonzero(segment_ids))
    self.filled[name] = self.filled.get(name, 0) + filled
    self.places[name] = self.places.get(name, 0) + segment_ids.size

  def take(self) -> dict[str, float]:
    """The rates since the last call."""
    seconds = max(time.monotonic() - self.start, 1e-9)
    heard = self.filled.get('padding_waste', 0) * self.frame_seconds
    rates = {'audio_hours_per_second': heard / 3600 / seconds}
    rates |= {name: 1 - self.filled[name] / n for name, n in self.places.items()}
    self.__init__(self.frame_seconds)
    return rates
