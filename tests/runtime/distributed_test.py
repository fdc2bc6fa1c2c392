# SPDX-License-Identifier: Apache-2.0
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from acl_jax.runtime import distributed, rendezvous

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import jax
from acl_jax.runtime import distributed, program

def main(_):
  distributed.initialize()
  distributed.initialize()
  print(jax.process_index(), jax.process_count(), len(jax.devices()))

program.run(main)
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
  for name in list(os.environ):
    if name.startswith(('TPU_', 'JAX_NUM', 'JAX_PROCESS', 'JAX_COORDINATOR')):
      monkeypatch.delenv(name)


@pytest.fixture
def address():
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{server.getsockname()[1]}'


def start(*flags, **environment):
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM, *flags],
    cwd=ROOT,
    env={**os.environ, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  stdout, stderr = process.communicate(timeout=120)
  assert process.returncode == 0, stderr
  return stdout.strip()


def initialize(argv):
  distributed.initialize()


@pytest.mark.full
def test_processes_connect_by_flags_and_by_the_environment(address):
  by_flags = start(
    f'--coordinator_address={address}', '--num_processes=2', '--process_id=0'
  )
  by_environment = start(
    JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='1'
  )
  assert finish(by_flags) == '0 2 2'
  assert finish(by_environment) == '1 2 2'


@pytest.mark.full
@pytest.mark.parametrize('flags', [[], ['--num_processes=1']])
def test_without_settings_a_process_is_alone(run_program, monkeypatch, flags):
  # libtpu sets this variable on hosts without TPUs, too.
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'WARNING: could not determine hostnames')
  calls = []
  monkeypatch.setattr(
    jax.distributed,
    'initialize',
    lambda address, **settings: calls.append((address, settings)),
  )
  assert run_program(initialize, *flags).code == 0
  ((address, settings),) = calls
  host, port = address.split(':')
  assert host == '127.0.0.1' and 0 < int(port) < 1 << 16
  assert (settings['num_processes'], settings['process_id']) == (1, 0)
  assert settings['heartbeat_timeout_seconds'] == distributed.WEEK


@pytest.mark.full
def test_missing_processes_are_reported_in_one_line(run_program, address):
  errors = []

  def run_worker():
    try:
      rendezvous.wait_for_all(address, 3, 2, 20.0)
    except TimeoutError as error:
      errors.append(str(error))

  worker = threading.Thread(target=run_worker)
  worker.start()
  result = run_program(
    initialize,
    f'--coordinator_address={address}',
    '--num_processes=3',
    '--process_id=0',
    '--initialization_timeout=1',
  )
  worker.join()
  (line,) = result.stderr.splitlines()
  assert result.code == 1
  assert line.startswith('error: 1 of 3 processes') and ' 1 s: 1; ' in line
  assert [f'error: {error}' for error in errors] == [line]


@pytest.mark.parametrize(
  'flags, environment, mentioned',
  [
    (['--process_id=1'], {}, ['--coordinator_address and --num_processes']),
    (
      ['--coordinator_address=a:1', '--num_processes=2', '--process_id=2'],
      {},
      ['--process_id=2', '--num_processes=2'],
    ),
    (
      ['--coordinator_address=a:1'],
      {'JAX_NUM_PROCESSES': 'two', 'JAX_PROCESS_ID': '0'},
      ['JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', "['two', '0']"],
    ),
  ],
)
def test_incomplete_or_wrong_settings_are_rejected(
  run_program, monkeypatch, flags, environment, mentioned
):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  result = run_program(initialize, *flags)
  (line,) = result.stderr.splitlines()
  assert result.code == 1 and line.startswith('error: ')
  assert all(text in line for text in mentioned)
