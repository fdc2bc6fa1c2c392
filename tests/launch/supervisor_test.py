# SPDX-License-Identifier: Apache-2.0
"""Processes on this machine: joined, restarted, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# A program that saves when it is told to stop. Its argument says how it ends otherwise:
# for each start, the exit code of each process; None waits, less than 0 is a signal.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

folder, plans = Path(sys.argv[1]), json.loads(sys.argv[2])
process = int(os.environ.get('JAX_PROCESS_ID', 0))
start = len(list(folder.glob(f'start-{process}-*')))
names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'MEGASCALE_SLICE_ID')
seen = {name: os.environ.get(name) for name in names}
(folder / f'pid-{process}').write_text(str(os.getpid()))

def save(number, frame):
  (folder / f'saved-{process}').touch()
  sys.exit(42)

signal.signal(signal.SIGTERM, save)
(folder / f'start-{process}-{start}').write_text(json.dumps(seen))
while len(list(folder.glob(f'start-*-{start}'))) < int(seen[names[1]] or 1):
  time.sleep(0.01)  # so that all can be told to stop
code = plans[min(start, len(plans) - 1)][process]
if code is None:
  time.sleep(60)
if code < 0:
  os.kill(os.getpid(), -code)
sys.exit(code)
"""


def start(tmp_path, plans: str, *flags: str) -> subprocess.Popen:
  (tmp_path / 'program.py').write_text(PROGRAM)
  command = [sys.executable, str(tmp_path / 'program.py'), str(tmp_path), plans]
  return subprocess.Popen(
    [sys.executable, '-m', 'launch.local', *flags, '--', *command],
    cwd=ROOT,
    env=os.environ | {'MEGASCALE_SLICE_ID': '3'},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def end(process: subprocess.Popen) -> tuple[int, str, str]:
  out, errors = process.communicate(timeout=60)
  return process.returncode, out, errors.strip()


def wait_for(path: Path) -> Path:
  limit = time.monotonic() + 60
  while not path.exists():
    assert time.monotonic() < limit, f'{path} never came'
    time.sleep(0.02)
  return path


def is_running(tmp_path, number: int) -> bool:
  try:
    os.kill(int((tmp_path / f'pid-{number}').read_text()), 0)
  except ProcessLookupError:
    return False
  return True


def test_processes_are_told_of_each_other_and_nothing_stale(tmp_path):
  assert end(start(tmp_path, '[[0, 0, 0]]', '--processes=3'))[0] == 0
  seen = {(tmp_path / f'start-{n}-0').read_text() for n in range(3)}
  [shared] = seen
  assert '"JAX_NUM_PROCESSES": "3"' in shared and '"127.0.0.1:' in shared
  assert '"MEGASCALE_SLICE_ID": null' in shared


def test_one_process_is_told_nothing(tmp_path):
  assert end(start(tmp_path, '[[0]]'))[0] == 0
  seen = (tmp_path / 'start-0-0').read_text()
  assert seen.count('null') == 3


def test_preempted_processes_start_again_together(tmp_path):
  code, out, _ = end(start(tmp_path, '[[42, 42], [42, 42], [0, 0]]', '--processes=2'))
  assert code == 0
  assert out == 'launch: exit code 42, restart 1\nlaunch: exit code 42, restart 2\n'
  assert sorted(p.name for p in tmp_path.glob('start-*')) == [
    f'start-{process}-{n}' for process in range(2) for n in range(3)
  ]


def test_when_one_is_killed_all_start_again(tmp_path):
  code, out, _ = end(start(tmp_path, '[[null, -9], [0, 0]]', '--processes=2'))
  assert (code, out) == (0, 'launch: exit code 137, restart 1\n')
  assert (tmp_path / 'saved-0').exists()  # it was asked to end


def test_an_error_ends_all_with_one_sentence(tmp_path):
  code, out, errors = end(start(tmp_path, '[[null, 3]]', '--processes=2'))
  assert (code, out) == (1, '')
  assert errors.startswith('error: exit code 3 of ') and '\n' not in errors
  assert not is_running(tmp_path, 0)


def test_restarts_are_bounded(tmp_path):
  code, _, errors = end(start(tmp_path, '[[42]]', '--max_restarts=2'))
  assert (code, errors) == (1, 'error: exit code 42 after 2 restarts, the limit')
  assert len(list(tmp_path.glob('start-*'))) == 3


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_lets_all_save(tmp_path, number):
  process = start(tmp_path, '[[null, null]]', '--processes=2')
  for n in range(2):
    wait_for(tmp_path / f'start-{n}-0')
  process.send_signal(number)
  assert end(process) == (42, '', 'preempted after saving: run me again')
  assert all((tmp_path / f'saved-{n}').exists() for n in range(2))


def test_killed_it_takes_the_processes_along(tmp_path):
  process = start(tmp_path, '[[null, null]]', '--processes=2')
  for n in range(2):
    wait_for(tmp_path / f'start-{n}-0')
  process.kill()
  for n in range(2):
    wait_for(tmp_path / f'saved-{n}')
  end(process)


def test_nohup_is_respected(tmp_path):
  (tmp_path / 'program.py').write_text(PROGRAM)
  command = ['nohup', sys.executable, '-m', 'launch.local', '--']
  command += [sys.executable, str(tmp_path / 'program.py'), str(tmp_path), '[[null]]']
  process = subprocess.Popen(
    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  wait_for(tmp_path / 'start-0-0')
  process.send_signal(signal.SIGHUP)
  time.sleep(0.2)
  assert process.poll() is None and not (tmp_path / 'saved-0').exists()
  process.send_signal(signal.SIGTERM)
  assert end(process)[0] == 42


@pytest.mark.parametrize(
  'command, says',
  [
    (['./nowhere'], 'error: ./nowhere: No such file or directory'),
    ([], 'error: the command is missing: write it after --'),
  ],
)
def test_bad_commands_are_one_sentence(command, says):
  line = [sys.executable, '-m', 'launch.local', '--', *command]
  done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stderr.strip()) == (1, says)
