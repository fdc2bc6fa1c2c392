# SPDX-License-Identifier: Apache-2.0
"""Work units on this machine, one after the other, as an experiment of XManager.

Each is a job of xm_local: a supervisor with the unit's processes, no container.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

from acl_jax import program
from launch import quoting
from launch.work_units import WorkUnit


def command(unit: WorkUnit, processes: int, max_restarts: int) -> list[str]:
  """What a job runs, with `python -m launch.local` around the program."""
  return [
    *('/usr/bin/env', *(f'{name}={value}' for name, value in unit.env.items())),
    *(sys.executable, '-m', 'launch.local', f'--processes={processes}'),
    *(f'--max_restarts={max_restarts}', '--', sys.executable, *unit.argv),
  ]


def run(units: Sequence[WorkUnit], processes: int, max_restarts: int) -> None:
  """Runs them; raises ValueError that names those which failed, Preempted if told to
  stop, once they have saved.
  """
  try:
    import xmanager.xm_local  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    line = quoting.line(command(units[0], processes, max_restarts))
    raise ValueError(
      f"XManager is missing: pip install 'acl_jax[launch]', or run {line}"
    ) from error
  commands = [command(unit, processes, max_restarts) for unit in units]
  failed, stopped = asyncio.run(_run(units[0].name, commands))
  if stopped:
    raise program.Preempted
  if failed:
    folders = ', '.join(units[number].workdir for number in failed)
    raise ValueError(f'{len(failed)} of {len(units)} work units failed: {folders}')


async def _run(title: str, commands: Sequence[Sequence[str]]) -> tuple[list[int], bool]:
  """The numbers of the failed ones, and whether SIGTERM or the like has come."""
  import psutil
  from xmanager import xm, xm_local  # pyright: ignore[reportMissingImports]

  stopped = False

  def stop() -> None:
    nonlocal stopped
    stopped = True
    for job in psutil.Process().children():
      job.terminate()

  loop = asyncio.get_running_loop()
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
      loop.add_signal_handler(number, stop)
  failed = []
  try:
    async with xm_local.create_experiment(experiment_title=title) as experiment:
      # XManager does not quote the path of a binary: it is one without need.
      binary = xm.binary(path=commands[0][0], executor_spec=xm_local.Local.Spec())
      [executable] = experiment.package([binary])
      for number, (_, *args) in enumerate(commands):
        if stopped:
          break
        # The output is not piped: a terminal stays a terminal.
        local = xm_local.Local(experimental_stream_output=False)
        work_unit = await experiment.add(xm.Job(executable, local, args=args))
        try:
          await work_unit.wait_until_complete()
        except xm.ExperimentUnitFailedError:
          failed.append(number)
  except RuntimeError:
    if not failed:  # else XManager says again, at the end, what it has said
      raise
  return failed, stopped
