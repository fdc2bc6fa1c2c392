# SPDX-License-Identifier: Apache-2.0
"""Compare our loader with Grain's `mp_prefetch` in 2 workers, from shards to batches.

  .venv/bin/python benchmarks/loader.py [--log_mel] [--encoding=int16]

All read the same shards and decode the same records to int16 samples or log-mel frames,
in rows of the same length. Grain's workers are measured twice: with Grain's best-fit
packing, as in its guide, and with exactly the batches of our packing. Rates exclude the
first two epochs, and so start-up and what was read ahead in them; each is the best of
several rounds in alternation. With FLAC shards libFLAC alone is measured, too, as no
loader that uses it can be faster. The last line is JSON.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import numpy as np
import soundfile
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks.machine import print_result
from benchmarks.mls_like import make_corpus
from data_pipeline.batches import BatchPlan, pack_rows
from data_pipeline.container import unpack
from data_pipeline.features import HOP, get_features
from data_pipeline.loader import load_batches
from data_pipeline.packing import PackedOrder
from data_pipeline.prepare import Settings, prepare
from data_pipeline.records import ENCODINGS, SAMPLE_RATE, Dataset, Shards

_LOG_MEL = flags.DEFINE_bool('log_mel', False, 'load log-mel frames instead of samples')
_ENCODING = flags.DEFINE_enum('encoding', 'flac', ENCODINGS, 'audio encoding')
_UTTERANCES = flags.DEFINE_integer('utterances', 400, 'size of the corpus', 50)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'rounds of each', 1)

ROW_SECONDS, ROWS = 40, 8
EPOCHS, WARM_UP_EPOCHS = 8, 2
WORKERS = 2
BINS = 16  # rows that Grain fills at a time


class BatchAssembler:
  """Assembles batches of a prepared folder; picklable, for worker processes."""

  def __init__(self, folder: Path, log_mel: bool):
    self.folder, self.dataset, self.log_mel = folder, Dataset(folder), log_mel
    self.rate = SAMPLE_RATE // HOP if log_mel else SAMPLE_RATE
    count = get_features('parakeet').num_frames
    samples = np.round(self.dataset.seconds * SAMPLE_RATE).astype(int)
    lengths = np.asarray([count(n) for n in samples]) if log_mel else samples
    self.order = PackedOrder(lengths[:, None], [ROW_SECONDS * self.rate], ROWS, seed=0)

  def __call__(self, batch: BatchPlan) -> dict[str, np.ndarray]:
    records = iter(self.dataset.__getitems__(batch.indices))
    rows = [[self.frames(next(records)['audio']) for _ in r] for r in batch.utterances]
    if self.log_mel:
      return pack_rows(rows, batch, rows[0][0].shape[1])._asdict()
    audio = np.zeros((batch.rows, batch.length), np.int16)
    segment_ids = np.zeros(audio.shape, np.int8)
    for b, row in enumerate(rows):
      start = 0
      for k, samples in enumerate(row, 1):
        stop = start + len(samples)
        audio[b, start:stop], segment_ids[b, start:stop] = samples, k
        start = stop
    return {'audio': audio, 'segment_ids': segment_ids}

  def frames(self, audio: np.ndarray) -> np.ndarray:
    """Return the samples or log-mel frames of an utterance."""
    if self.log_mel:
      return get_features('parakeet').log_mel(audio, 80)
    return (audio * 32768).astype(np.int16)

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Return the batch of a step."""
    return self(self.order[int(step)])

  def utterance(self, index: int) -> dict[str, np.ndarray]:
    """Return one utterance, for Grain to pack."""
    return {'audio': self.frames(self.dataset[int(index)]['audio'])}


def load_in_threads(assembler: BatchAssembler, steps: int) -> Iterator[dict[str, Any]]:
  """Load our batches with our loader, in threads of this process."""
  return load_batches(assembler.order, assembler, range(steps))


def load_in_workers(assembler: BatchAssembler, steps: int) -> Iterator[dict[str, Any]]:
  """Load our batches with Grain, in worker processes."""
  dataset = grain.MapDataset.range(steps).map(assembler.batch).to_iter_dataset()
  options = grain.MultiprocessingOptions(num_workers=WORKERS)
  return iter(dataset.mp_prefetch(options))


def load_with_grain(assembler: BatchAssembler, steps: int) -> Iterator[dict[str, Any]]:
  """Pack and load batches with Grain, in worker processes."""
  epochs = steps // assembler.order.steps_per_epoch
  indices = grain.MapDataset.range(len(assembler.dataset))
  dataset = indices.shuffle(seed=0).repeat(epochs)
  packed = grain.experimental.BestFitPackIterDataset(
    dataset.map(assembler.utterance).to_iter_dataset(),
    length_struct={'audio': ROW_SECONDS * assembler.rate},
    num_packing_bins=BINS,
  )
  options = grain.MultiprocessingOptions(num_workers=WORKERS)
  for batch in packed.batch(ROWS).mp_prefetch(options):
    yield {'segment_ids': batch['audio_segment_ids']}


def libflac_rate(folder: Path) -> float:
  """Return audio hours per second of libFLAC alone, on all cores, from memory."""
  shards = Shards(folder)
  files = [
    unpack(record)[1]['flac'].tobytes()
    for record in shards.__getitems__(range(len(shards)))
  ]

  def samples_of(file: bytes) -> int:
    return len(soundfile.read(io.BytesIO(file), dtype='int16')[0])

  start = time.perf_counter()
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    samples = sum(
      sum(pool.map(samples_of, files)) for _ in range(EPOCHS - WARM_UP_EPOCHS)
    )
  return samples / SAMPLE_RATE / 3600 / (time.perf_counter() - start)


def rate(batches: Iterator[dict[str, Any]], first: int, per_second: int) -> float:
  """Return audio hours per second, without the first `first` batches."""
  for _ in range(first):
    next(batches)
  start, filled = time.perf_counter(), 0
  for batch in batches:
    filled += int(np.count_nonzero(batch['segment_ids']))
  return filled / per_second / 3600 / (time.perf_counter() - start)


def main(argv: list[str]) -> None:
  """Alternate all loaders; print their rates."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    corpus = make_corpus(Path(folder) / 'corpus', _UTTERANCES.value)
    settings = Settings(encoding=_ENCODING.value)
    prepare('mls', corpus, Path(folder) / 'prepared', settings=settings)
    assembler = BatchAssembler(Path(folder) / 'prepared', _LOG_MEL.value)
    loaders: dict[str, Callable] = {
      'ours': load_in_threads,
      'workers': load_in_workers,
      'grain': load_with_grain,
    }
    best = dict.fromkeys(loaders, 0.0)
    for number in range(_ROUNDS.value):
      for name, load in loaders.items():
        epoch = assembler.order.steps_per_epoch
        batches = load(assembler, EPOCHS * epoch)
        hours = rate(batches, WARM_UP_EPOCHS * epoch, assembler.rate)
        best[name] = max(best[name], hours)
        print(f'{number + 1}/{_ROUNDS.value} {name} {hours:.3f} h/s', flush=True)
    if _ENCODING.value == 'flac':
      best['libflac'] = max(
        libflac_rate(assembler.folder) for _ in range(_ROUNDS.value)
      )
  result = {
    'audio_hours_per_second': best['ours'],
    'audio_hours_per_second_mp_prefetch2': best['grain'],
    'ratio_vs_mp_prefetch2': best['ours'] / best['grain'],
    'ratio_vs_mp_prefetch2_of_our_batches': best['ours'] / best['workers'],
  }
  if 'libflac' in best:
    result['ratio_of_libflac_alone'] = best['libflac'] / best['grain']
  figures = {name: float(f'{value:.4g}') for name, value in result.items()}
  settings = {'encoding': _ENCODING.value, 'log_mel': _LOG_MEL.value}
  print_result(figures | settings)


if __name__ == '__main__':
  app.run(main)
