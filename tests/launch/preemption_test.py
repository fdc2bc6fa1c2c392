# SPDX-License-Identifier: Apache-2.0
"""Two JAX processes under the launcher are preempted or killed, and resume.

The program only counts, but starts, agrees to stop and exits as the real ones do.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent

# Counts together with its peers, from the saved number to that in its second argument.
PROGRAM = """
import os
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from acl_jax.runtime import compilation_cache, distributed, preemption, program


def main(argv):
  folder, last = Path(argv[1]), int(argv[2])
  hits = []
  jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith('cache_hits') else None
  )
  compilation_cache.enable(folder / 'compiled')
  distributed.initialize()
  preemption.install_handler()
  saved = folder / f'count-{jax.process_index()}'
  first = int(saved.read_text()) + 1 if saved.exists() else 1
  with preemption.deferred():
    count_on(saved, first, last, hits)


def count_on(saved, first, last, hits):
  for count in range(first, last + 1):
    counts = multihost_utils.process_allgather(jax.numpy.array(count))
    assert counts.tolist() == [count, count]
    if count == first and jax.process_index() == 0:
      print('counts from', count, flush=True)
    if count == first:
      saved.with_suffix('.pid').write_text(str(os.getpid()))
      saved.with_suffix('.hits').write_text(str(len(hits)))
    if count == 7:
      saved.write_text(str(count))  # as a step that saves
    if preemption.is_requested():
      saved.write_text(str(count))
      raise program.Preempted
    time.sleep(0.05)


program.run(main, 'folder', 'last')
"""


def launch(tmp_path, last: int) -> subprocess.Popen:
  (tmp_path / 'program.py').write_text(PROGRAM)
  command = [sys.executable, '-m', 'launch.local', '--processes=2', '--']
  command += [sys.executable, tmp_path / 'program.py', tmp_path, str(last)]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def test_preempted_processes_stop_at_the_same_step_and_resume_from_it(tmp_path):
  process = launch(tmp_path, 100_000)
  assert process.stdout is not None
  started = next((line for line in process.stdout if line.startswith('counts')), None)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert started == 'counts from 1\n' and process.returncode == 42, errors
  assert re.match('preempted .*', errors.splitlines()[-1])
  first, second = (int((tmp_path / f'count-{n}').read_text()) for n in range(2))
  assert first == second < 100_000

  process = launch(tmp_path, first + 3)
  out, errors = process.communicate()
  assert process.returncode == 0, errors
  assert f'counts from {first + 1}' in out.splitlines()


def test_if_one_process_is_killed_the_other_ends_and_both_resume(tmp_path):
  process = launch(tmp_path, 200)
  assert process.stdout is not None
  assert 'counts from 1\n' in iter(process.stdout.readline, '')
  while not all((tmp_path / f'count-{n}').exists() for n in range(2)):
    assert process.poll() is None
  (tmp_path / 'program.py').write_text(PROGRAM.replace('time.sleep(0.05)', 'pass'))
  os.kill(int((tmp_path / 'count-1.pid').read_text()), signal.SIGKILL)
  out, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  assert 'counts from 8' in out.splitlines()
  assert 'launch: exit code 137, restart 1' in out.splitlines()
  assert 'a process of this job was lost (' in errors
  # Also the process that does not write to the compilation cache finds its programs.
  assert (tmp_path / 'count-1.hits').read_text() != '0'
