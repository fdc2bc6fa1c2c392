# SPDX-License-Identifier: Apache-2.0
"""Two processes of this machine that JAX joins, preempted and launched again."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Counts, together with its peers, from where it stopped to the number that it is given.
PROGRAM = """
import json, os, sys, time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

folder, last = Path(sys.argv[1]), int(sys.argv[2])
process = int(os.environ['JAX_PROCESS_ID'])
processes = int(os.environ['JAX_NUM_PROCESSES'])
jax.distributed.initialize(num_processes=processes, process_id=process)
kept = folder / f'count-{process}'
count = int(kept.read_text()) if kept.exists() else 0
asked = 0
while count < last:
  count += 1
  everyone = multihost_utils.process_allgather(jax.numpy.array(count))
  assert everyone.tolist() == [count] * processes
  if process == 0 and asked == 0:
    print('counting from', count, flush=True)
  if multihost_utils.reached_preemption_sync_point(asked):
    break
  asked += 1
  time.sleep(0.05)
kept.write_text(str(count))
jax.distributed.shutdown()
sys.exit(0 if count == last else 42)
"""


def start(tmp_path, last: int) -> subprocess.Popen:
  (tmp_path / 'program.py').write_text(PROGRAM)
  command = [sys.executable, '-m', 'launch.local', '--processes=2', '--']
  command += [sys.executable, tmp_path / 'program.py', tmp_path, str(last)]
  return subprocess.Popen(
    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def test_they_stop_at_the_same_step_and_go_on_from_it(tmp_path):
  process = start(tmp_path, 100_000)
  assert process.stdout is not None
  said = next((line for line in process.stdout if line.startswith('counting')), None)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert said == 'counting from 1\n' and process.returncode == 42, errors
  first, second = (int((tmp_path / f'count-{n}').read_text()) for n in range(2))
  assert first == second < 100_000

  process = start(tmp_path, first + 3)
  out, errors = process.communicate()
  assert process.returncode == 0, errors
  assert f'counting from {first + 1}' in out.splitlines()
