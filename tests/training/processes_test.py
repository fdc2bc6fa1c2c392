# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of several processes and of other meshes; who is missing is named."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Arguments: folder, port, process, processes, and what to do.
PROGRAM = """
import json, socket, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from acl_jax.runtime import barriers
from acl_jax.training.checkpoint import Checkpoints

folder, port, process, count, *todo = sys.argv[1:]
process, count = int(process), int(count)
if count > 1:
  jax.distributed.initialize(f'127.0.0.1:{port}', count, process)

def state(step, shape, axes, spec):
  n = int(np.prod(shape))
  mesh = Mesh(np.asarray(jax.devices()[:n]).reshape(shape), axes)
  whole = step + np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
  sharding = NamedSharding(mesh, P(*spec))
  part = jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])
  count = jax.device_put(np.int32(step), NamedSharding(mesh, P()))
  return {'w': part, 'count': count}

checkpoints = Checkpoints(folder)
for what in todo:
  name, step, shape, axes, spec = json.loads(what)
  if name == 'save':
    checkpoints.save(step, state(step, shape, axes, spec), {'by': count})
  elif name == 'restore':
    wanted = state(-1, shape, axes, spec)
    found = checkpoints.restore(wanted)
    expected = state(step, shape, axes, spec)
    for a, b, c in zip(*map(jax.tree.leaves, (found.state, expected, wanted))):
      assert a.sharding == c.sharding
      for x, y in zip(a.addressable_shards, b.addressable_shards):
        np.testing.assert_array_equal(x.data, y.data)
    print('restored', found.step, found.note)
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


def run(folder, processes, devices, *todo):
  """Starts them all; returns what each printed."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  flags = f'--xla_force_host_platform_device_count={devices}'
  todo = [json.dumps(what) for what in todo]
  started = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, folder, port, str(i), str(processes), *todo],
      cwd=ROOT,
      env=os.environ | {'XLA_FLAGS': flags},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for i in range(processes)
  ]
  said = [process.communicate(timeout=120) for process in started]
  for process, (_, errors) in zip(started, said, strict=True):
    assert process.returncode == 0, errors
  return said


EIGHT = ([8], ['x'], ['x', None])
MESHES = (
  EIGHT,
  ([2, 4], ['y', 'x'], ['x', 'y']),
  ([4], ['x'], [None, 'x']),
  ([1], ['x'], [None, None]),
)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A folder with checkpoints by two processes, and what these said."""
  folder = tmp_path_factory.mktemp('two') / 'stage'
  todo = ['save', 3, *EIGHT], ['save', 5, *EIGHT], ['miss', 0, *EIGHT]
  return folder, run(folder, 2, 4, *todo)


def test_who_does_not_come_is_named(two):
  _, said = two
  host = socket.gethostname()
  first, second = (out.splitlines()[-1] for out, _ in said)
  assert first == f'missing: dinner: process 1 on {host} did not come within 0.02 min'
  assert second == f'missing: the menu: no word from process 0 on {host} for 0.01 min'


def test_every_process_writes_and_one_note_has_all(two):
  folder, _ = two
  files = json.loads((folder / '5/note.json').read_text())['files']
  assert any('process_0/' in name for name in files)
  assert any('process_1/' in name for name in files)


def test_other_meshes_and_process_counts_restore_the_same(two):
  """From 2 processes with 4 devices each to 1 with 8, 4 and 1 of them, and back."""
  folder, _ = two
  todo = [['restore', 5, *mesh] for mesh in MESHES]
  ((said, _),) = run(folder, 1, 8, *todo, ['save', 7, *MESHES[-1]])
  assert said.splitlines() == ["restored 5 {'by': 2}"] * 4
  damaged = next((folder / '7').glob('d/*'))
  content = bytearray(damaged.read_bytes())
  content[len(content) // 2] ^= 8
  damaged.write_bytes(content)
  (first, warned), (second, silent) = run(folder, 2, 4, ['restore', 5, *MESHES[1]])
  assert [out.splitlines()[-1] for out in (first, second)] == [
    "restored 5 {'by': 2}"
  ] * 2
  assert 'checkpoint 7 of' in warned and 'checkpoint 7 of' not in silent
