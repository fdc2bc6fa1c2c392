# SPDX-License-Identifier: Apache-2.0
"""Compare our packing with Grain's best fit, on LibriSpeech-like lengths.

  .venv/bin/python benchmarks/packing.py

Both pack the same utterances under the same two limits, in alternation, and copy one
number per frame. The last line is JSON; waste is the share of encoder frames that is
padding, including the last rows of the epoch.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import grain
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks.machine import print_result
from data_pipeline.batches import pack_rows
from data_pipeline.packing import PackedOrder

_ITEMS = flags.DEFINE_integer('items', 6_000, 'utterances of an epoch', lower_bound=100)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'measured epochs of each', lower_bound=1)
_FRAMES = flags.DEFINE_integer('frames', 1_024, 'encoder frames per row')

TOKENS = 512  # per row
BINS = 64  # rows that Grain fills at a time
FRAME_RATE, TOKEN_RATE = 12.5, 3.2  # per second of speech


def lengths_like_librispeech(items: int) -> np.ndarray:
  """Return encoder frames and LLM tokens: most 12 to 16 s, mean 12 s, maximum 35 s."""
  rng = np.random.default_rng(0)
  long = rng.random(items) < 0.65
  seconds = np.where(
    long, rng.normal(14.5, 1.2, items), rng.gamma(2.2, 3.4, items)
  ).clip(1.3, 35)
  rate = rng.normal(TOKEN_RATE, 0.5, items).clip(1.5, 6)
  return np.stack([seconds * FRAME_RATE, seconds * rate + 4], axis=1).astype(np.int64)


def pack_ours(lengths: np.ndarray) -> tuple[int, int]:
  """Pack an epoch row by row; return the numbers of rows and utterances."""
  order = PackedOrder(lengths, (_FRAMES.value, TOKENS), 1, seed=0)
  num_packed = 0
  for step in range(order.steps_per_epoch):
    frames = [
      [np.zeros((lengths[i, 0], 1), np.float32) for i in order[step].utterances[0]]
    ]
    packed = pack_rows(frames, order[step], 1)
    num_packed += int(packed.segment_ids.max())
  return order.steps_per_epoch, num_packed


def pack_with_grain(lengths: np.ndarray) -> tuple[int, int]:
  """Do the same with Grain, which copies arrays of frames and of tokens."""
  source = grain.MapDataset.source(lengths.tolist()).to_iter_dataset()  # pyright: ignore[reportArgumentType]
  source = source.map(
    lambda need: {
      'frames': np.zeros(need[0], np.float32),
      'tokens': np.zeros(need[1], np.float32),
    }
  )
  packed = grain.experimental.BestFitPackIterDataset(
    source,
    length_struct={'frames': _FRAMES.value, 'tokens': TOKENS},
    num_packing_bins=BINS,
  )
  rows = [int(row['frames_segment_ids'].max()) for row in packed]
  return len(rows), sum(rows)


def main(argv: list[str]) -> None:
  """Alternate both; print waste and rates."""
  del argv
  lengths = lengths_like_librispeech(_ITEMS.value)
  packers: dict[str, Callable] = {'ours': pack_ours, 'grain': pack_with_grain}
  seconds: dict[str, list[float]] = {name: [] for name in packers}
  waste = {}
  for number in range(_ROUNDS.value):
    for name, pack in packers.items():
      start = time.perf_counter()
      rows, num_packed = pack(lengths)
      seconds[name].append(time.perf_counter() - start)
      if num_packed != len(lengths):
        raise ValueError(f'{name} packed {num_packed} of {len(lengths)} utterances')
      waste[name] = 1 - lengths[:, 0].sum() / (rows * _FRAMES.value)
    print(
      f'{number + 1}/{_ROUNDS.value}', {k: round(v[-1], 3) for k, v in seconds.items()}
    )
  rate = {
    name: len(lengths) / float(np.median(times)) for name, times in seconds.items()
  }
  result = {
    'waste': waste['ours'],
    'sequences_per_second': rate['ours'],
    'waste_grain_bestfit': waste['grain'],
    'sequences_per_second_grain': rate['grain'],
    'ratio_vs_grain_bestfit': rate['ours'] / rate['grain'],
  }
  print_result({key: round(float(value), 5) for key, value in result.items()})


if __name__ == '__main__':
  app.run(main)
