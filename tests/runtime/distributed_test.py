# SPDX-License-Identifier: Apache-2.0
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import jax
from acl_jax.runtime import program
from acl_jax.runtime import distributed

def main(_):
  distributed.initialize()
  distributed.initialize()
  print(jax.process_index(), jax.process_count(), len(jax.devices()))

program.run(main)
"""


def start(*flags, **environment):
  clean = {k: v for k, v in os.environ.items() if not k.startswith(('TPU_', 'JAX_NUM'))}
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM, *flags],
    cwd=ROOT,
    env={**clean, **environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def end(process):
  out, err = process.communicate(timeout=120)
  return process.returncode, out.strip(), err.strip().splitlines()[-1:]


def new_address():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


def test_by_flags_by_the_environment_and_alone():
  address = new_address()
  by_flags = start(
    f'--coordinator_address={address}', '--num_processes=2', '--process_id=0'
  )
  by_environment = start(
    JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES='2', JAX_PROCESS_ID='1'
  )
  # What libtpu leaves behind on a machine without TPUs is no pod.
  alone = start(
    TPU_WORKER_HOSTNAMES='WARNING: could not determine TPU worker hostnames'
  )
  assert end(by_flags)[:2] == (0, '0 2 2')
  assert end(by_environment)[:2] == (0, '1 2 2')
  assert end(alone)[:2] == (0, '0 1 1')


def test_a_worker_started_alone_says_so_in_one_sentence():
  others = f'--coordinator_address={new_address()}', '--num_processes=3'
  wait = '--initialization_timeout=1'
  worker, leader = (start(*others, f'--process_id={i}', wait) for i in (2, 0))
  code, _, said = end(worker)
  assert code == 1 and said[0].startswith('error: ')
  code, _, said = end(leader)
  assert code == 1 and 'of 3 processes did not come within 1 s: 1' in said[0]


@pytest.mark.parametrize(
  'given, said',
  [
    (['--process_id=1'], '--coordinator_address and --num_processes must be given too'),
    (
      ['--coordinator_address=a:1', '--num_processes=2', '--process_id=2'],
      '--process_id=2 is not below --num_processes=2',
    ),
  ],
)
def test_what_is_given_in_part_is_refused(given, said):
  code, _, line = end(start(*given))
  assert code == 1 and said in line[0]
