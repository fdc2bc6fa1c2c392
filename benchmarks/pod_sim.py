# SPDX-License-Identifier: Apache-2.0
"""Simulate the data side of a pod: N hosts over the index of a corpus.

  .venv/bin/python benchmarks/pod_sim.py --records=10800000

The indices are synthetic: there is no audio, and neither shards nor a network are
opened. A host starts in a process of its own, from the interpreter to the plan of its
next batch, and once more as after a preemption; its memory is the peak of that process.
Then this process takes the parts of N = 1, 16 and 256 hosts of the same batches,
compares a host that was lost and came back, and continues on 12 of 16 hosts. The last
line is JSON.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks.machine import print_result
from benchmarks.pod_world import Host, peak_gigabytes, start_host, write_world

_RECORDS = flags.DEFINE_integer('records', 10_800_000, 'utterances', 4_000)
_LENGTHS = flags.DEFINE_enum('lengths', 'librispeech', ['librispeech', 'mls'], 'like')
_ROW_FRAMES = flags.DEFINE_integer('row_frames', 1_024, 'encoder frames of a row', 256)
_ROWS = flags.DEFINE_integer('rows', 768, 'of a batch; 1, 12, 16 and 256 divide it', 1)
_HOST = flags.DEFINE_string('host', None, 'internal: start a host over this folder')
_STEP = flags.DEFINE_integer('step', 0, 'internal: at which that host starts')

HOSTS = (1, 16, 256)
FEWER = 12  # hosts after the checkpoint
LOST = 5  # the host that is lost and comes back
COMPARED = 3  # batches after each event
BYTES_PER_SECOND = 32_000  # of audio in shards with --encoding=int16


def digest(order: Sequence[Any], steps: Iterable[int], host: int, hosts: int) -> str:
  """Return a checksum of the rows that a host loads in some steps."""
  parts = [order[step].take_parts([host], hosts) for step in steps]
  return hashlib.sha256(json.dumps(parts, default=int).encode()).hexdigest()


def run_host(folder: Path, step: int) -> None:
  """Start a host at a step, and print what it took and which rows it loads."""
  host = start_host(folder, _ROWS.value, _ROW_FRAMES.value)
  steps = range(step, step + COMPARED)
  print(
    json.dumps(
      {
        'stages': host.stages,
        'gigabytes': peak_gigabytes(),
        'cpu_seconds': round(time.process_time(), 2),
        'rows': digest(host.order, steps, LOST, HOSTS[1]),
      }
    )
  )


def measure_host(folder: Path, step: int) -> dict[str, Any]:
  """Start a host in a process of its own; returns what it printed, and its seconds."""
  flags = [f'--host={folder}', f'--step={step}', f'--rows={_ROWS.value}']
  flags += [f'--row_frames={_ROW_FRAMES.value}']
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, __file__, *flags], capture_output=True, text=True
  )
  if done.returncode:
    raise ValueError(f'a host ended with {done.returncode}: {done.stderr[-2_000:]}')
  report = json.loads(done.stdout.splitlines()[-1])
  return report | {'seconds': round(time.perf_counter() - start, 2)}


def share_batches(host: Host, hosts: int, steps: Iterable[int]) -> dict[str, Any]:
  """Take every host's part of some batches.

  Returns whether the parts together are the batch; the frames of the host with the most
  over the mean; and the bytes of audio that a host reads per step, mean and largest.
  """
  identical, balance, sizes = True, [], []
  for step in steps:
    plan = host.order[step]
    parts = [plan.take_parts([number], hosts) for number in range(hosts)]
    rows = [row for part in parts for row in part.utterances if row]
    identical &= tuple(rows) == plan.utterances
    identical &= all(list(part.all_utterances) == plan.indices for part in parts)
    frames = [int(host.lengths[part.indices, 0].sum()) for part in parts]
    if len(plan.utterances) == plan.rows:  # an epoch's last batch has fewer
      balance.append(max(frames) / (sum(frames) / hosts))
    sizes += [
      float(host.seconds[part.indices].sum()) * BYTES_PER_SECOND for part in parts
    ]
  return {
    'identical': identical,
    'balance': round(max(balance, default=1.0), 4),
    'megabytes_per_step': round(float(np.mean(sizes)) / 1e6, 2),
    'megabytes_per_step_max': round(max(sizes) / 1e6, 2),
  }


def simulate(folder: Path, checkpoint: int) -> dict[str, Any]:
  """Run all parts of the simulation; returns its figures."""
  first, again = (measure_host(folder, step) for step in (0, checkpoint))
  print('start:', first, '\nrestart:', again, flush=True)
  host = start_host(folder, _ROWS.value, _ROW_FRAMES.value)
  epoch = host.order.steps_per_epoch
  around = range(checkpoint, checkpoint + COMPARED)
  steps = sorted({0, 1, epoch - 2, epoch, *around, 10**9})
  pods = {count: share_batches(host, count, steps) for count in HOSTS}
  for count, pod in pods.items():
    print(f'{count} hosts:', pod, flush=True)
  # The lost host is another process: its rows must be those that the others expect.
  is_same = again['rows'] == digest(host.order, around, LOST, HOSTS[1])
  fewer = share_batches(host, FEWER, around)
  stages = again['stages']
  return {
    'start_seconds': first['seconds'],
    'restart_seconds': again['seconds'],
    'host_memory_gb': round(max(first['gigabytes'], again['gigabytes']), 3),
    'epoch_plan_seconds': max(first['stages']['plan'][0], stages['plan'][0]),
    # On a machine that is shared, the wall clock measures the others, too.
    'cpu_seconds': {
      'start': first['cpu_seconds'],
      'restart': again['cpu_seconds'],
      'epoch_plan': max(first['stages']['plan'][1], stages['plan'][1]),
    },
    'padding_waste': round(host.order.padding_waste, 5),
    'identical': is_same
    and fewer['identical']
    and all(pod['identical'] for pod in pods.values()),
    'hosts': {str(count): pod for count, pod in pods.items()},
    'after_16_to_12': fewer,
    'restart_stages': stages,
    'steps_per_epoch': epoch,
  }


def main(argv: list[str]) -> None:
  """Simulate the pod, or one host of it."""
  del argv
  if _HOST.value:
    return run_host(Path(_HOST.value), _STEP.value)
  settings = {'records': _RECORDS.value, 'lengths': _LENGTHS.value}
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    start = time.perf_counter()
    write_world(folder, _RECORDS.value, _LENGTHS.value)
    print(f'indices written in {time.perf_counter() - start:.1f} s', flush=True)
    figures = simulate(folder, checkpoint=_RECORDS.value // 4_000)
  print_result(
    figures | settings | {'rows': _ROWS.value, 'row_frames': _ROW_FRAMES.value}
  )


if __name__ == '__main__':
  app.run(main)
