# SPDX-License-Identifier: Apache-2.0
"""Processes under the supervisor are restarted, stopped and never left running."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parent.parent.parent

# A program that saves on SIGTERM. Its second argument lists, for each start, the exit
# code of each process; None waits for a signal, a negative number sends one to itself.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

folder, plans = Path(sys.argv[1]), json.loads(sys.argv[2])
process = int(os.environ.get('JAX_PROCESS_ID', 0))
start = len(list(folder.glob(f'start-{process}-*')))
names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'MEGASCALE_SLICE_ID')
environment = {name: os.environ.get(name) for name in names}
(folder / f'pid-{process}').write_text(str(os.getpid()))

def save(number, frame):
  (folder / f'saved-{process}').touch()
  sys.exit(42)

signal.signal(signal.SIGTERM, save)
(folder / f'start-{process}-{start}').write_text(json.dumps(environment))
while len(list(folder.glob(f'start-*-{start}'))) < int(environment[names[1]] or 1):
  time.sleep(0.01)  # until all processes handle SIGTERM
code = plans[min(start, len(plans) - 1)][process]
if code is None:
  time.sleep(60)
if code < 0:
  os.kill(os.getpid(), -code)
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def default_signal_handlers():
  """Children inherit ignored signals: ignore none, even if nohup runs the tests."""
  numbers = (signal.SIGINT, signal.SIGHUP)
  before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
  yield
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)


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


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
  out, errors = process.communicate(timeout=60)
  return process.returncode, out, errors.strip()


def wait_for(path: Path) -> Path:
  deadline = time.monotonic() + 60
  while not path.exists():
    assert time.monotonic() < deadline, f'{path} does not exist'
    time.sleep(0.02)
  return path


def is_running(tmp_path, number: int) -> bool:
  try:
    os.kill(int((tmp_path / f'pid-{number}').read_text()), 0)
  except ProcessLookupError:
    return False
  return True


def test_processes_get_variables_of_jax_and_none_of_an_earlier_slice(tmp_path):
  assert finish(start(tmp_path, '[[0, 0, 0]]', '--processes=3'))[0] == 0
  environments = {(tmp_path / f'start-{n}-0').read_text() for n in range(3)}
  [shared] = environments
  assert '"JAX_NUM_PROCESSES": "3"' in shared and '"127.0.0.1:' in shared
  assert '"MEGASCALE_SLICE_ID": null' in shared


def test_a_single_process_gets_no_variables_of_jax(tmp_path):
  assert finish(start(tmp_path, '[[0]]'))[0] == 0
  environment = (tmp_path / 'start-0-0').read_text()
  assert environment.count('null') == 3


def test_preempted_processes_restart_together(tmp_path):
  plans = '[[42, 42], [42, 42], [0, 0]]'
  code, out, _ = finish(start(tmp_path, plans, '--processes=2'))
  assert code == 0
  assert out == 'launch: exit code 42, restart 1\nlaunch: exit code 42, restart 2\n'
  assert sorted(p.name for p in tmp_path.glob('start-*')) == [
    f'start-{process}-{n}' for process in range(2) for n in range(3)
  ]


def test_if_one_process_is_killed_all_restart(tmp_path):
  code, out, _ = finish(start(tmp_path, '[[null, -9], [0, 0]]', '--processes=2'))
  assert (code, out) == (0, 'launch: exit code 137, restart 1\n')
  assert (tmp_path / 'saved-0').exists()  # it got SIGTERM


def test_if_one_process_fails_all_are_stopped(tmp_path):
  code, out, errors = finish(start(tmp_path, '[[null, 3]]', '--processes=2'))
  assert (code, out) == (1, '')
  assert errors.startswith('error: exit code 3 ') and '\n' not in errors
  assert errors.endswith("'[[null, 3]]'")  # the command
  assert not is_running(tmp_path, 0)


def test_restarts_are_limited(tmp_path):
  code, _, errors = finish(start(tmp_path, '[[42]]', '--max_restarts=2'))
  assert code == 1
  assert re.fullmatch('error: exit code 42 .* 2 restarts.*--max_restarts', errors)
  assert len(list(tmp_path.glob('start-*'))) == 3


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_on_a_stop_signal_all_processes_save(tmp_path, number):
  process = start(tmp_path, '[[null, null]]', '--processes=2')
  for n in range(2):
    wait_for(tmp_path / f'start-{n}-0')
  process.send_signal(number)
  code, out, errors = finish(process)
  assert (code, out) == (42, '')
  assert re.fullmatch('preempted .*', errors)  # one line
  assert all((tmp_path / f'saved-{n}').exists() for n in range(2))


def test_if_the_supervisor_is_killed_the_processes_save(tmp_path):
  process = start(tmp_path, '[[null, null]]', '--processes=2')
  for n in range(2):
    wait_for(tmp_path / f'start-{n}-0')
  process.kill()
  for n in range(2):
    wait_for(tmp_path / f'saved-{n}')
  finish(process)


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
  assert finish(process)[0] == 42


@pytest.mark.parametrize(
  'command, pattern',
  [
    (['./nowhere'], 'error: ./nowhere: No such file or directory\n'),
    ([], 'error: .*command.*--\n'),
  ],
)
def test_a_wrong_command_is_an_error_in_one_line(command, pattern):
  argv = [sys.executable, '-m', 'launch.local', '--', *command]
  completed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
  assert completed.returncode == 1
  assert re.fullmatch(pattern, completed.stderr)
