# SPDX-License-Identifier: Apache-2.0
"""Several processes of one command on this machine, which JAX joins: together or not at
all, and again when they were preempted.
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

from acl_jax.runtime import program
from launch import quoting
from launch.work_units import RESTART_CODES, STALE

SAVING_SECONDS = 300  # that processes may take to save and end
DYING_SECONDS = 10  # that they may take to end when there is nothing to save
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1  # of Linux


class Supervisor:
  """Runs a command until it is done.

  SIGTERM, SIGINT and SIGHUP go to the processes, once, as SIGTERM: they save and end.
  """

  def __init__(self, argv: Sequence[str], processes: int, max_restarts: int) -> None:
    self.argv = list(argv)
    self.processes = processes
    self.max_restarts = max_restarts
    self._running: list[subprocess.Popen] = []
    self._stop_by = float('inf')  # when patience with being told to stop ends

  def run(self) -> None:
    """Returns when the command is done; raises Preempted, or ValueError if it fails."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
        signal.signal(number, self._stop)
    for restart in range(self.max_restarts + 1):
      code = self._run_once()
      if code == 0:
        return
      if code not in RESTART_CODES:
        raise ValueError(f'exit code {code} of {quoting.line(self.argv)}')
      if self._stop_by < float('inf'):
        raise program.Preempted
      if restart < self.max_restarts:
        print(f'launch: exit code {code}, restart {restart + 1}', flush=True)
    raise ValueError(f'exit code {code} after {self.max_restarts} restarts, the limit')

  def _run_once(self) -> int:
    """The exit code of the process that first ends with another than 0; else 0."""
    self._running = []
    try:
      for environment in environments(self.processes):
        self._running.append(_start(self.argv, environment))
      if self._stop_by < float('inf'):  # told while they were being started
        self._signal_all(signal.SIGTERM)
      while True:
        codes = [process.poll() for process in self._running]
        if failed := [_exit_code(code) for code in codes if code]:
          # Of two that ended at once: what no restart mends.
          code = min(failed, key=lambda code: code in RESTART_CODES)
          self._end(SAVING_SECONDS if code == program.PREEMPTED else 0)
          return code
        if None not in codes:
          return 0
        if time.monotonic() > self._stop_by:
          self._signal_all(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    finally:
      self._kill()

  def _end(self, patience: float) -> None:
    """Lets all end by themselves for `patience` seconds, then asks them to."""
    self._wait(patience)
    self._signal_all(signal.SIGTERM)
    self._wait(DYING_SECONDS)

  def _wait(self, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and any(p.poll() is None for p in self._running):
      time.sleep(_POLL_SECONDS)

  def _kill(self) -> None:
    """Also what they have started themselves: each leads a group."""
    for process in self._running:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()

  def _stop(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self._stop_by = min(self._stop_by, time.monotonic() + SAVING_SECONDS)
    self._signal_all(signal.SIGTERM)

  def _signal_all(self, number: signal.Signals) -> None:
    for process in self._running:
      process.send_signal(number)  # does nothing if it has ended


def environments(processes: int) -> list[dict[str, str]]:
  """Of each process. One alone is told nothing: it makes a cluster of its own."""
  clean = {name: value for name, value in os.environ.items() if name not in STALE}
  if processes == 1:
    return [clean]
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  shared = clean | {
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_NUM_PROCESSES': str(processes),
  }
  return [shared | {'JAX_PROCESS_ID': str(number)} for number in range(processes)]


def _start(argv: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
  # A session of its own, so that Ctrl-C reaches it through us alone.
  return subprocess.Popen(
    argv, env=environment, start_new_session=True, preexec_fn=_die_with_parent
  )


def _die_with_parent() -> None:
  """Even if that is killed: else the accelerator would stay taken."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_code(code: int) -> int:
  """As a shell says it: 128 and the number of the signal."""
  return code if code >= 0 else 128 - code
