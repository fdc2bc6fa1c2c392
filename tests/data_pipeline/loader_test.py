# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.buckets import BucketOrder
from data_pipeline.loader import load_batches
from data_pipeline.packing import PackedOrder

ROOT = Path(__file__).parents[2]
ORDER = BucketOrder(
  [7, 30, 64, 65, 12, 96, 97, 128, 40, 41], (64, 96, 128), 200, seed=3
)


def assemble(batch):
  return {'indices': batch.indices, 'x': np.full((batch.rows, batch.length), 0.5)}


def test_batches_are_in_order():
  steps = range(2 * ORDER.steps_per_epoch)
  loaded = list(load_batches(ORDER, assemble, steps))
  assert [b['indices'] for b in loaded] == [ORDER[i].indices for i in steps]
  assert [b['x'].shape for b in loaded] == [
    (ORDER[i].rows, ORDER[i].length) for i in steps
  ]


@pytest.mark.parametrize('start', [0, 1, 5, 23])
def test_restart_gives_the_same_batches(start):
  all_steps = [b['indices'] for b in load_batches(ORDER, assemble, range(29))]
  assert [b['indices'] for b in load_batches(ORDER, assemble, range(start, 29))] == (
    all_steps[start:]
  )


@pytest.mark.parametrize('threads', [0, 1, 4])
@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_threads_and_hosts_do_not_change_the_order(threads, hosts):
  lengths = np.random.default_rng(0).integers(3, 40, (90, 2))
  order = PackedOrder(lengths, (50, 60), 4, seed=0)
  steps = range(order.steps_per_epoch - 3, order.steps_per_epoch + 4)
  loaders = [
    load_batches(
      order, lambda batch: batch, steps, parts=[host], total=hosts, threads=threads
    )
    for host in range(hosts)
  ]
  for step, batches in zip(steps, zip(*loaders, strict=True), strict=True):
    rows = sum((b.utterances for b in batches), ())
    assert tuple(row for row in rows if row) == order[step].utterances


PROGRAM = """if True:
  import numpy as np
  from data_pipeline.buckets import BucketOrder
  from data_pipeline.loader import load_batches
  order = BucketOrder(np.full(64, 9), (10,), 40, seed=0)
  def assemble(batch):
    return np.zeros((batch.rows, 1_000_000))
  for _ in load_batches(order, assemble, range(1 << 40)):
    print('batch', flush=True)
"""


@pytest.mark.full
@pytest.mark.skipif(not Path('/proc').exists(), reason='reads /proc of Linux')
def test_loading_creates_no_processes_or_shared_memory():
  """A killed program therefore leaves none."""
  with subprocess.Popen(
    [sys.executable, '-c', PROGRAM], cwd=ROOT, stdout=subprocess.PIPE
  ) as program:
    assert program.stdout and program.stdout.readline() == b'batch\n'
    process = Path(f'/proc/{program.pid}')
    children = [path.read_text() for path in process.glob('task/*/children')]
    mapped = (process / 'maps').read_text()
    program.kill()
  assert children and not any(children)
  assert '/dev/shm' not in mapped


def test_no_batch_after_the_last_step():
  assert list(load_batches(ORDER, assemble, range(9, 9))) == []


def test_record_error_reaches_the_caller():
  def fail(batch):
    raise ValueError(f'record {batch.indices[0]} is broken')

  with pytest.raises(ValueError, match=r'record \d+ is broken'):
    list(load_batches(ORDER, fail, range(3)))


def test_batches_know_their_epoch():
  size = ORDER.steps_per_epoch
  assert [ORDER[i].epoch for i in (0, size - 1, size, 3 * size)] == [0, 0, 1, 3]
