# SPDX-License-Identifier: Apache-2.0
"""Measure speed and peak memory of `data_pipeline.prepare` on two sizes of corpus.

  .venv/bin/python benchmarks/prepare.py

The corpora have the layout of MLS: FLAC files of 2 to 20 s, cut from the shipped
recordings, and hard links to them. Every program runs in a process of its own. Rates
use processor time, which other processes hardly affect, and the difference between the
two sizes, which excludes start-up. The last line is JSON.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks.machine import print_result
from benchmarks.mls_like import make_corpus
from data_pipeline import records

_UTTERANCES = flags.DEFINE_integer('utterances', 200, 'size of the small corpus', 20)
_TIMES = flags.DEFINE_integer('times', 8, 'size of the large corpus over the small', 2)
_LISTED = flags.DEFINE_integer('listed', 20_000, 'size of the corpus to list', 1_000)

ROOT = Path(__file__).parent.parent
SHARD_SIZE = 100

LISTING = """if True:
  import pathlib, sys
  from data_pipeline.corpora import open_corpus
  from data_pipeline.preparation import plan
  plan.plan_shards(open_corpus('mls', sys.argv[1]), pathlib.Path(sys.argv[2]), 1_000)
"""


class Cost(NamedTuple):
  """The resources that a process used, including its children."""

  cpu: float  # seconds, on all cores
  wall: float  # seconds
  megabytes: float  # peak


def run(*arguments: str | Path) -> Cost:
  """Run Python with the arguments; RuntimeError if it fails."""
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  assert process.stderr
  errors = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    raise RuntimeError(errors.decode())
  wall = time.perf_counter() - start
  return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def prepare(corpus: Path, encoding: str = 'flac') -> tuple[Path, Cost]:
  """Prepare a corpus; return the output folder and the cost."""
  output = corpus.with_name(f'{corpus.name}-{encoding}')
  cost = run(
    '-m',
    'data_pipeline.prepare',
    '--corpus=mls',
    f'--input={corpus}',
    f'--output={output}',
    f'--encoding={encoding}',
    f'--shard_size={SHARD_SIZE}',
  )
  return output, cost


def read_speed(folder: Path) -> float:
  """Return the seconds of audio read per second of one core; the best of three."""
  data, best = records.Dataset(folder), 0.0
  for _ in range(3):
    start = time.process_time()
    for index in range(len(data)):
      data[index]
    best = max(best, float(data.seconds.sum()) / (time.process_time() - start))
  return best


def size(folder: Path) -> int:
  """Return the bytes of the shards."""
  return sum(path.stat().st_size for path in folder.glob('data-*'))


def measure(folder: Path, utterances: int, times: int, listed: int) -> dict[str, float]:
  """Prepare and list both corpora; return all figures."""
  small, few = prepare(make_corpus(folder / 'small', utterances))
  large, many = prepare(make_corpus(folder / 'large', utterances * times))
  plain, _ = prepare(folder / 'small', 'int16')
  hours = [records.Dataset(path).info['hours'] for path in (small, large)]
  minutes = (many.cpu - few.cpu) / 60
  short = make_corpus(folder / 'short', listed, with_audio=False)
  long = make_corpus(folder / 'long', listed * times, with_audio=False)
  listing = [run('-c', LISTING, path, folder / 'plan') for path in (short, long)]
  additional = listed * (times - 1)
  return {
    'audio_hours_per_minute_per_core': (hours[1] - hours[0]) / minutes,
    'audio_hours_per_minute': hours[1] / (many.wall / 60),
    'peak_mb_small': few.megabytes,
    'peak_mb_large': many.megabytes,
    'utterances_small': utterances,
    'utterances_large': utterances * times,
    'listed_per_second_per_core': additional / (listing[1].cpu - listing[0].cpu),
    'peak_mb_listing_small': listing[0].megabytes,
    'peak_mb_listing_large': listing[1].megabytes,
    'flac_over_int16_bytes': size(small) / size(plain),
    'read_x_real_time_flac': read_speed(small),
    'read_x_real_time_int16': read_speed(plain),
  }


def main(argv: list[str]) -> None:
  """Print the figures."""
  del argv
  with tempfile.TemporaryDirectory() as folder:
    figures = measure(Path(folder), _UTTERANCES.value, _TIMES.value, _LISTED.value)
  rounded = {name: float(f'{value:.4g}') for name, value in figures.items()}
  print_result(rounded)


if __name__ == '__main__':
  app.run(main)
