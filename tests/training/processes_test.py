# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of several processes and of other meshes; missing processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent

# Arguments: folder, port, process id, number of processes, and the commands to run.
PROGRAM = """
import json, socket, sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from acl_jax.runtime import barriers
from acl_jax.training.checkpoint import Checkpoints

folder, port, process, count, *commands = sys.argv[1:]
process, count = int(process), int(count)
if count > 1:
  jax.distributed.initialize(f'127.0.0.1:{port}', count, process)

def make_state(step, shape, axes, spec):
  n = int(np.prod(shape))
  mesh = Mesh(np.asarray(jax.devices()[:n]).reshape(shape), axes)
  whole = step + np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
  sharding = NamedSharding(mesh, P(*spec))
  part = jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])
  count = jax.device_put(np.int32(step), NamedSharding(mesh, P()))
  return {'w': part, 'count': count}

def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 8
  path.write_bytes(content)

checkpoints = Checkpoints(folder)
for command in commands:
  name, step, *mesh = json.loads(command)
  if name == 'save':
    checkpoints.save(step, make_state(step, *mesh), {'by': count})
  elif name == 'damage':
    checkpoints.close()
    if process == 0:
      flip_a_bit(next((Path(folder) / str(step)).rglob('d/*')))
    barriers.wait('damaged', 1.0)
    checkpoints = Checkpoints(folder)
  elif name == 'restore':
    target = make_state(-1, *mesh)
    restored = checkpoints.restore(target)
    expected = make_state(step, *mesh)
    for a, b, c in zip(*map(jax.tree.leaves, (restored.state, expected, target))):
      assert a.sharding == c.sharding
      for x, y in zip(a.addressable_shards, b.addressable_shards):
        np.testing.assert_array_equal(x.data, y.data)
    print('restored', restored.step, restored.metadata)
  elif name == 'miss':
    try:
      if process == 0:
        barriers.wait('dinner', 0.02)
      else:
        barriers.broadcast('the menu', '', 0.01)
    except TimeoutError as error:
      print('missing:', error)
    barriers.wait('together again', 1.0)
checkpoints.close()
"""


def run(folder, num_processes, num_devices, *commands):
  """Start all processes; return the outputs and logs of each."""
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    port = str(server.getsockname()[1])
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  arguments = [str(num_processes), *map(json.dumps, commands)]
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, folder, port, str(process_id), *arguments],
      cwd=ROOT,
      env=os.environ | {'XLA_FLAGS': flags},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for process_id in range(num_processes)
  ]
  outputs = [process.communicate(timeout=120) for process in processes]
  for process, (_, log) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, log
  return [(stdout.splitlines(), log) for stdout, log in outputs]


EIGHT = ([8], ['x'], ['x', None])
TWO_BY_FOUR = ([2, 4], ['y', 'x'], ['x', 'y'])
MESHES = EIGHT, TWO_BY_FOUR, ([4], ['x'], [None, 'x']), ([1], ['x'], [None, None])


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
  """A folder with checkpoints by two processes, and their outputs."""
  folder = tmp_path_factory.mktemp('two') / 'stage'
  outputs = run(
    folder,
    2,
    4,
    ['save', 3, *EIGHT],
    ['save', 5, *EIGHT],
    ['save', 7, *EIGHT],
    ['damage', 7],
    ['restore', 5, *TWO_BY_FOUR],
    ['miss', 0],
  )
  return folder, outputs


def test_missing_processes_are_reported(two_processes):
  _, ((first, _), (second, _)) = two_processes
  host = socket.gethostname()
  assert first[-1].startswith(f'missing: dinner: process 1 on {host} ')
  assert first[-1].endswith(' 0.02 min')
  assert second[-1].startswith(f'missing: the menu: process 0 on {host} ')
  assert second[-1].endswith(' 0.01 min')


def test_every_process_writes_and_one_manifest_has_all_files(two_processes):
  folder, _ = two_processes
  files = json.loads((folder / '5/note.json').read_text())['files']
  assert any('process_0/' in name for name in files)
  assert any('process_1/' in name for name in files)


def test_damage_is_logged_once_and_all_processes_restore_the_same(two_processes):
  folder, ((first, first_log), (second, second_log)) = two_processes
  assert [lines[-2] for lines in (first, second)] == ["restored 5 {'by': 2}"] * 2
  assert 'checkpoint 7 of' in first_log and 'checkpoint 7 of' not in second_log
  assert sorted(path.name for path in folder.iterdir()) == ['5']


def test_other_meshes_and_another_process_count_restore_the_same(two_processes):
  """From 2 processes with 4 devices each to 1 with 8, 4 and 1 of them."""
  folder, _ = two_processes
  commands = [['restore', 5, *mesh] for mesh in MESHES]
  ((lines, _),) = run(folder, 1, 8, *commands)
  assert lines == ["restored 5 {'by': 2}"] * 4
