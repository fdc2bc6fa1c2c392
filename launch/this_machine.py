# SPDX-License-Identifier: Apache-2.0
"""Work units on this machine, one after the other, as an experiment of XManager.

Each is a job of xm_local: a supervisor with the unit's processes, no container.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from acl_jax.runtime import program
from launch import quoting
from launch.work_units import WorkUnit

SUPERVISOR = 'launch.local'  # the module that is run


def command(unit: WorkUnit, processes: int, max_restarts: int) -> list[str]:
  """What a job runs, with `python -m launch.local` around the program."""
  return [
    *('/usr/bin/env', *(f'{name}={value}' for name, value in unit.env.items())),
    *(sys.executable, '-m', SUPERVISOR, f'--processes={processes}'),
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
  asyncio.run(_run(units, [command(u, processes, max_restarts) for u in units]))


async def _run(units: Sequence[WorkUnit], commands: Sequence[Sequence[str]]) -> None:
  import psutil
  from xmanager import xm, xm_local  # pyright: ignore[reportMissingImports]

  stopped, failed = False, []

  def stop() -> None:
    nonlocal stopped
    stopped = True
    for process in psutil.Process().children(recursive=True):
      with contextlib.suppress(psutil.Error):  # it may just have ended
        # Not the shell around it, which XManager waits for.
        if SUPERVISOR in process.cmdline():
          process.terminate()

  loop = asyncio.get_running_loop()
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
      loop.add_signal_handler(number, stop)
  async with xm_local.create_experiment(experiment_title=units[0].name) as experiment:
    # XManager does not quote the path of a binary, so it is one without need.
    binary = xm.binary(path=commands[0][0], executor_spec=xm_local.Local.Spec())
    [executable] = experiment.package([binary])
    # Not piped: a terminal stays a terminal.
    local = xm_local.Local(experimental_stream_output=False)
    for unit, (_, *args) in zip(units, commands, strict=True):
      job = xm.Job(executable, local, args=args)
      try:
        await (await experiment.add(job)).wait_until_complete()
      except xm.ExperimentUnitFailedError:
        failed.append(unit.workdir)
      if stopped:
        raise program.Preempted
    if failed:
      folders = ', '.join(failed)
      raise ValueError(f'{len(failed)} of {len(units)} work units failed: {folders}')
