# SPDX-License-Identifier: Apache-2.0
"""Run work units on this machine, one after the other, as an XManager experiment.

Each is an xm_local job: a supervisor with the unit's processes, without a container.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from acl_jax.runtime import program
from launch import quoting
from launch.work_units import WorkUnit

SUPERVISOR = 'launch.local'  # the module that jobs run


def command(unit: WorkUnit, processes: int, max_restarts: int) -> list[str]:
  """Return a job's command: the program under `python -m launch.local`."""
  return [
    '/usr/bin/env',
    *(f'{name}={value}' for name, value in unit.env.items()),
    sys.executable,
    '-m',
    SUPERVISOR,
    f'--processes={processes}',
    f'--max_restarts={max_restarts}',
    '--',
    sys.executable,
    *unit.argv,
  ]


def run(units: Sequence[WorkUnit], processes: int, max_restarts: int) -> None:
  """Run the units.

  Raises ValueError with the folders of failed units. After a signal to stop, raises
  Preempted once the processes have saved.
  """
  try:
    import xmanager.xm_local  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    line = quoting.command_line(command(units[0], processes, max_restarts))
    raise ValueError(
      f"XManager is not installed: pip install 'acl_jax[launch]', or run {line}"
    ) from error
  asyncio.run(_run(units, [command(u, processes, max_restarts) for u in units]))


async def _run(units: Sequence[WorkUnit], commands: Sequence[Sequence[str]]) -> None:
  import psutil
  from xmanager import xm, xm_local  # pyright: ignore[reportMissingImports]

  is_stopping, failed_folders = False, []

  def stop() -> None:
    nonlocal is_stopping
    is_stopping = True
    for process in psutil.Process().children(recursive=True):
      with contextlib.suppress(psutil.Error):  # it may just have exited
        # Not the shell around the supervisor: XManager waits for the shell.
        if SUPERVISOR in process.cmdline():
          process.terminate()

  loop = asyncio.get_running_loop()
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
      loop.add_signal_handler(number, stop)
  async with xm_local.create_experiment(experiment_title=units[0].name) as experiment:
    # XManager does not quote the path of the binary; /usr/bin/env needs no quoting.
    binary = xm.binary(path=commands[0][0], executor_spec=xm_local.Local.Spec())
    [executable] = experiment.package([binary])
    # Without a pipe, the program's stdout stays a terminal.
    local = xm_local.Local(experimental_stream_output=False)
    for unit, (_, *args) in zip(units, commands, strict=True):
      job = xm.Job(executable, local, args=args)
      try:
        await (await experiment.add(job)).wait_until_complete()
      except xm.ExperimentUnitFailedError:
        failed_folders.append(unit.workdir)
      if is_stopping:
        raise program.Preempted
    if failed_folders:
      count = f'{len(failed_folders)} of {len(units)}'
      raise ValueError(f'{count} work units failed: {", ".join(failed_folders)}')
