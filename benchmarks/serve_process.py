# SPDX-License-Identifier: Apache-2.0
"""A server in a process of its own: started, watched and stopped. Linux only."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
START_SECONDS = 1_800.0  # to load the model and compile everything
STOP_SECONDS = 60.0
HOST = '127.0.0.1'


class ServerProcess:
  """A context in which `python -m acl_jax.serve` answers at `url`.

  arguments: of the program. log: file for what it prints.
  """

  def __init__(self, arguments: Sequence[str], log: Path):
    self.port = free_port()
    self.url = f'http://{HOST}:{self.port}'
    self._command = [sys.executable, '-m', 'acl_jax.serve', *arguments]
    self._command += [f'--host={HOST}', f'--port={self.port}']
    self._log, self.start_seconds = log, 0.0
    self._process: subprocess.Popen | None = None

  def __enter__(self) -> 'ServerProcess':
    start = time.monotonic()
    with self._log.open('wb') as log:
      self._process = subprocess.Popen(
        self._command, cwd=ROOT, env=environment(), stdout=log, stderr=log
      )
    try:
      self._wait()
    except BaseException:
      self.__exit__()
      raise
    self.start_seconds = time.monotonic() - start
    return self

  def __exit__(self, *error) -> None:
    process = self._process
    if process is None or process.poll() is not None:
      return
    process.send_signal(signal.SIGTERM)
    try:
      process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()

  def counter(self, name: str) -> float:
    """Return a value of /metrics that has no labels."""
    text = get(f'{self.url}/metrics')
    match = re.search(rf'^{name} (\S+)$', text, re.MULTILINE)
    if match is None:
      raise ValueError(f'/metrics has no {name}')
    return float(match[1])

  def memory_mib(self) -> float:
    """Return the resident memory of the server, without its voice."""
    assert self._process is not None
    status = Path(f'/proc/{self._process.pid}/status').read_text()
    (line,) = (line for line in status.splitlines() if line.startswith('VmRSS'))
    return int(line.split()[1]) / 1024

  def _wait(self) -> None:
    assert self._process is not None
    end = time.monotonic() + START_SECONDS
    while not is_ready(self.url):
      if self._process.poll() is not None or time.monotonic() > end:
        tail = self._log.read_text(errors='replace')[-2_000:]
        raise RuntimeError(f'the server did not start; its last words:\n{tail}')
      time.sleep(0.5)


def is_ready(url: str) -> bool:
  """Return whether the server takes requests."""
  try:
    return bool(get(f'{url}/ready'))
  except OSError:  # among them statuses other than 200
    return False


def get(url: str) -> str:
  """Return what a server on this machine answers."""
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  with opener.open(url, timeout=10) as response:
    return response.read().decode()


def free_port() -> int:
  """Return a port that nobody listens at."""
  with socket.create_server((HOST, 0)) as probe:
    return probe.getsockname()[1]


def environment() -> dict[str, str]:
  """Return the environment of our programs: this checkout, no key, no model hub."""
  variables = {k: v for k, v in os.environ.items() if k != 'ACL_JAX_API_KEY'}
  return variables | {'PYTHONPATH': str(ROOT), 'HF_HUB_OFFLINE': '1'}
