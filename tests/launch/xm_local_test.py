# SPDX-License-Identifier: Apache-2.0
"""Work units on this machine with the real XManager, where it is installed.

It takes some 600 MB and minutes to install, so `make test` does not.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

pytest.importorskip('xmanager', reason='of the extra [launch]')

ROOT = Path(__file__).parent.parent.parent

# Runs work units whose program is the second file; each gets its folder as argument.
LAUNCHER = """
import sys
from absl import flags
from acl_jax.runtime import program
from launch import this_machine
from launch.work_units import WorkUnit

script, *folders = sys.argv[1:]
sys.argv[1:] = []
units = [
  WorkUnit('it', (script, f, "it's $HOME"), {'WHO': 'a b'}, '', f, ()) for f in folders
]
program.run(lambda argv: this_machine.run(units, processes=2, max_restarts=1))
"""
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

assert sys.argv[2] == "it's $HOME" and os.environ['WHO'] == 'a b'
folder, process = Path(sys.argv[1]), os.environ['JAX_PROCESS_ID']
assert os.environ['JAX_NUM_PROCESSES'] == '2'

def save(number, frame):
  time.sleep(2)
  (folder / f'saved-{process}').touch()
  sys.exit(42)

signal.signal(signal.SIGTERM, save)
folder.mkdir(exist_ok=True)
(folder / f'start-{process}').touch()
while len(list(folder.glob('start-*'))) < 2:
  time.sleep(0.01)
if 'long' in folder.name:
  time.sleep(60)
sys.exit(3 if 'bad' in folder.name else 0)
"""


def start(tmp_path, *folders: str) -> subprocess.Popen:
  (tmp_path / 'launcher.py').write_text(LAUNCHER)
  (tmp_path / 'program.py').write_text(PROGRAM)
  files = [tmp_path / 'launcher.py', tmp_path / 'program.py']
  return subprocess.Popen(
    [sys.executable, *files, *(str(tmp_path / folder) for folder in folders)],
    # XManager writes its list of experiments to $HOME.
    env=os.environ | {'HOME': str(tmp_path), 'PYTHONPATH': str(ROOT)},
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def test_all_work_units_run_and_failed_ones_are_reported(tmp_path):
  process = start(tmp_path, 'first', 'bad second', 'third')
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert all((tmp_path / name / 'start-1').exists() for name in ('first', 'third'))
  last = errors.splitlines()[-1]
  assert last.startswith('error: 1 of 3 ')
  assert last.endswith(f': {tmp_path}/bad second')
  assert 'Traceback' not in errors


def test_on_sigterm_it_waits_until_all_processes_have_saved(tmp_path):
  process = start(tmp_path, 'long', 'never')
  deadline = time.monotonic() + 60
  while len(list((tmp_path / 'long').glob('start-*'))) < 2:
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  process.wait(timeout=60)  # not communicate(), which waits for all its children
  assert len(list((tmp_path / 'long').glob('saved-*'))) == 2
  _, errors = process.communicate()
  assert process.returncode == 42, errors
  assert not (tmp_path / 'never').exists()
  assert errors.splitlines()[-1] == 'preempted after saving: run me again'


def test_a_successful_run_prints_nothing_to_stderr(tmp_path):
  process = start(tmp_path, 'first')
  _, errors = process.communicate(timeout=120)
  assert (process.returncode, errors) == (0, '')
