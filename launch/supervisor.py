# SPDX-License-Identifier: Apache-2.0
"""Run a command in one or more JAX processes on this machine.

If one of the processes fails, all are stopped; if one was preempted or killed, all are
started again: none can go on without the others.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from acl_jax.runtime import program, sigterm
from launch import quoting
from launch.work_units import MULTISLICE_VARIABLES, RESTART_CODES

SAVE_SECONDS = 300  # limit for processes to save a checkpoint and exit
# Limit for processes to exit without saving, of which a program needs the first.
EXIT_SECONDS = sigterm.UNWIND_SECONDS + 1
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h


class Supervisor:
  """Runs a command to its end, through preemptions.

  SIGTERM, SIGINT and SIGHUP are passed on to the processes as SIGTERM: they save and
  exit.
  """

  def __init__(self, argv: Sequence[str], processes: int, max_restarts: int) -> None:
    self.argv = list(argv)
    self.processes = processes
    self.max_restarts = max_restarts
    self._running: list[subprocess.Popen] = []
    self._kill_time = float('inf')  # set by a signal to stop

  def run(self) -> None:
    """Run until the command succeeds; raise Preempted, or ValueError if it fails."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
        signal.signal(number, self._handle_stop_signal)
    for restart in range(self.max_restarts + 1):
      code = self._run_once()
      if code == 0:
        return
      if code not in RESTART_CODES:
        raise ValueError(f'exit code {code} from {quoting.command_line(self.argv)}')
      if self._is_stopping():
        raise program.Preempted
      if restart < self.max_restarts:
        print(f'launch: exit code {code}, restart {restart + 1}', flush=True)
    raise ValueError(
      f'exit code {code} after {self.max_restarts} restarts, the limit; raise'
      ' --max_restarts'
    )

  def _run_once(self) -> int:
    """Run all processes once; return the exit code of the first that fails, or 0."""
    self._running = []
    try:
      for environment in process_environments(self.processes):
        self._running.append(_start_process(self.argv, environment))
      if self._is_stopping():  # signalled while processes were being started
        self._signal_all(signal.SIGTERM)
      while True:
        codes = [process.poll() for process in self._running]
        if failed := [_shell_exit_code(code) for code in codes if code]:
          # Of several failures at once, an error takes precedence over a preemption.
          code = min(failed, key=lambda code: code in RESTART_CODES)
          self._stop_all(SAVE_SECONDS if code == program.PREEMPTED else 0)
          return code
        if None not in codes:
          return 0
        if time.monotonic() > self._kill_time:
          self._signal_all(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    finally:
      self._kill_groups()

  def _is_stopping(self) -> bool:
    return self._kill_time < float('inf')

  def _stop_all(self, seconds: float) -> None:
    """Wait `seconds` for all processes to exit, then send SIGTERM."""
    self._wait_for_exit(seconds)
    self._signal_all(signal.SIGTERM)
    self._wait_for_exit(EXIT_SECONDS)

  def _wait_for_exit(self, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(p.poll() is None for p in self._running):
      time.sleep(_POLL_SECONDS)

  def _kill_groups(self) -> None:
    """Kill the processes and their own children: each process leads a group."""
    for process in self._running:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()

  def _handle_stop_signal(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._kill_time = min(self._kill_time, time.monotonic() + SAVE_SECONDS)
    self._signal_all(signal.SIGTERM)

  def _signal_all(self, number: signal.Signals) -> None:
    for process in self._running:
      process.send_signal(number)  # no effect once it has exited


def process_environments(processes: int) -> list[dict[str, str]]:
  """Return the environment of each process.

  A single process gets no variables of JAX: it forms a cluster by itself.
  """
  inherited = {
    name: value
    for name, value in os.environ.items()
    if name not in MULTISLICE_VARIABLES
  }
  if processes == 1:
    return [inherited]
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{server.getsockname()[1]}'
  shared = inherited | {
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_NUM_PROCESSES': str(processes),
  }
  return [shared | {'JAX_PROCESS_ID': str(number)} for number in range(processes)]


def _start_process(
  argv: Sequence[str], environment: dict[str, str]
) -> subprocess.Popen:
  # In a new session, so that Ctrl-C reaches it only through the supervisor.
  return subprocess.Popen(
    argv, env=environment, start_new_session=True, preexec_fn=_die_with_parent
  )


def _die_with_parent() -> None:
  """Get SIGTERM when the supervisor dies, even by SIGKILL, to free the accelerator."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _shell_exit_code(code: int) -> int:
  """Return the exit code as a shell does: 128 plus the number of a signal."""
  return code if code >= 0 else 128 - code
