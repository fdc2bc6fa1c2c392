# SPDX-License-Identifier: Apache-2.0
"""Time from the death of a process to the next step, and what it is spent on.

  .venv/bin/python benchmarks/restart.py [--trials=3]

The launcher runs `python -m acl_jax.pretrain` for a tiny Conformer in two processes.
One of them is killed: the others cannot go on without it, so the launcher stops them
and starts all again from the last checkpoint. The compilation cache is warm. Stages
come from `startup.jsonl` of the run; `launch` is the time from the kill to the first
import of the new process 0. The last line is JSON, of the slowest trial.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.training.startup import FILE
from benchmarks import kill
from benchmarks.machine import print_result

PROCESSES = 2
SAVE_EVERY, STEPS = 5, 1_000_000  # the run is stopped before its end
LIMIT = 300  # seconds to wait for anything


def start(config: Path, workdir: Path, log: Path) -> subprocess.Popen:
  """Start the launcher."""
  command = [sys.executable, '-m', 'acl_jax.pretrain', f'--config={config}']
  launcher = [sys.executable, '-m', 'launch.local', f'--processes={PROCESSES}', '--']
  with log.open('w') as file:
    return subprocess.Popen(
      [*launcher, *command, f'--workdir={workdir}'],
      cwd=kill.ROOT,
      env=kill.environment(config),
      stdout=file,
      stderr=subprocess.STDOUT,
    )


def wait_for(condition: Any, process: subprocess.Popen, log: Path) -> Any:
  """Return the first result that is true; RuntimeError with the log if none comes."""
  deadline = time.monotonic() + LIMIT
  while time.monotonic() < deadline and process.poll() is None:
    if result := condition():
      return result
    time.sleep(0.01)
  raise RuntimeError(f'the run ended or hangs:\n{log.read_text()[-4_000:]}')


def starts(workdir: Path) -> list[dict[str, Any]]:
  """Return the complete lines of `startup.jsonl`."""
  path = workdir / FILE
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def find_process(launcher: int, number: int) -> int:
  """Return the pid of a JAX process by its number."""
  for pid in _children(launcher):
    environment = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    if f'JAX_PROCESS_ID={number}'.encode() in environment:
      return pid
  raise RuntimeError(f'process {number} is not running')


def _children(pid: int) -> Iterator[int]:
  for task in Path(f'/proc/{pid}/task').iterdir():
    yield from map(int, (task / 'children').read_text().split())


def measure(folder: Path, trials: int) -> dict[str, Any]:
  """Kill each process in turn; return the figures of the slowest restart."""
  config, workdir, log = kill.make_world(folder), folder / 'run', folder / 'log'
  values = kill.config_of(folder)
  values['ctc'] |= {'steps': STEPS, 'save_every': SAVE_EVERY}
  config.write_text(kill.CONFIG.format(config=values))
  process, results, killed = start(config, workdir, log), [], 0.0
  try:
    for trial in range(trials + 1):  # the first fills the compilation cache
      line = wait_for(lambda n=trial: starts(workdir)[n : n + 1], process, log)[0]
      if trial:
        launch = line['time'] - line['total'] - killed
        stages = {'launch': round(launch, 3), **line['seconds']}
        seconds = line['time'] - killed
        results.append({'restart_seconds': round(seconds, 3), 'stages': stages})
        print(results[-1], flush=True)
      if trial < trials:
        saved = workdir / 'ctc' / str((line['step'] // SAVE_EVERY + 2) * SAVE_EVERY)
        wait_for(saved.exists, process, log)
        victim = find_process(process.pid, (trial + 1) % PROCESSES)
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
  finally:
    process.terminate()
    process.wait()
  slowest = max(results, key=lambda result: result['restart_seconds'])
  return {**slowest, 'processes': PROCESSES, 'trials': trials}


def main(argv: list[str]) -> None:
  """Measure and print."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    print_result(measure(Path(folder), flags.FLAGS.trials))


if __name__ == '__main__':
  # Defined here: programs have flags of the same names.
  flags.DEFINE_integer('trials', 3, 'number of kills', lower_bound=1)
  app.run(main)
