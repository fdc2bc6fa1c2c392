# SPDX-License-Identifier: Apache-2.0
"""Which process holds a lock, and whether it still runs."""

import contextlib
import datetime
import json
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

_MAX_BYTES = 4096


class Holder(NamedTuple):
  """Who holds a lock.

  token: unique for each time it is taken. machine: of host, kernel and containers that
  have the same process numbers. started: when the process did, in the kernel's units.
  """

  token: str = ''
  host: str = 'an unknown host'
  machine: str = ''
  pid: int = 0
  started: str = ''
  program: str = 'another program'
  since: str = 'an unknown time'

  @classmethod
  def this_process(cls) -> 'Holder':
    """Return this process as a new holder."""
    now = datetime.datetime.now(datetime.UTC).isoformat(' ', 'seconds')
    program = Path(sys.argv[0]).stem or 'python'
    pid, host = os.getpid(), socket.gethostname()
    started = _start_of(pid) or ''
    return cls(uuid.uuid4().hex, host, _machine(), pid, started, program, now)

  @property
  def is_alive(self) -> bool:
    """Whether its process runs; only for a holder on this machine."""
    try:
      os.kill(self.pid, 0)
    except (ProcessLookupError, OverflowError):
      return False
    except PermissionError:  # it runs, for another user
      pass
    started = _start_of(self.pid)
    return started is None or started == self.started

  def __str__(self) -> str:
    where = f'process {self.pid} on {self.host}, since {self.since}'
    return f'{self.program} ({where})' if self.pid else self.program


def read_holder(path: Path) -> Holder | None:
  """Return the holder in a file, unknown if it is damaged; None without a file."""
  try:
    with path.open('rb') as file:
      content = json.loads(file.read(_MAX_BYTES))
    holder = Holder(**content)
    if not all(type(x) is type(y) for x, y in zip(holder, Holder(), strict=True)):
      return Holder()
    return holder if holder.pid > 0 else Holder()
  except FileNotFoundError:
    return None
  except (ValueError, TypeError, RecursionError):
    return Holder()


def _machine() -> str:
  """Return a name of what shares process numbers: a kernel that runs, a container."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(Path('/proc/sys/kernel/random/boot_id').read_text().strip())
    parts.append(str(Path('/proc/self/ns/pid').stat().st_ino))
  return ' '.join(parts)


def _start_of(pid: int) -> str | None:
  """Return when a process started, '' if it is a zombie; None if that is unknown."""
  try:
    state, *fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return '' if state in 'ZX' else fields[18]
  except (OSError, ValueError, IndexError):
    return None
