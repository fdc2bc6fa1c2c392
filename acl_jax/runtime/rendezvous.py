# SPDX-License-Identifier: Apache-2.0
"""The processes of a job find each other, or learn which of them are missing.

JAX ends a process whose fellows do not come in an abort that names none of them. So
process 0 calls the roll first, on the port that JAX's coordinator takes next.
"""

import contextlib
import socket
import time
from collections.abc import Iterable

GO = 'go'
MAX_MESSAGE_BYTES = 4_096  # bytes of a message; more is from a stranger
MESSAGE_TIMEOUT = 5.0  # s for one message of a fellow that is there
RETRY_INTERVAL = 0.2  # s


def wait_for_all(address: str, processes: int, process: int, timeout: float) -> None:
  """Returns in every process once all are there.

  address: host:port of process 0. timeout: in s. TimeoutError with the numbers of those
  who did not come; ValueError if two have the same number.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
    raise ValueError(f'--coordinator_address={address} is not host:port')
  end = time.monotonic() + timeout
  if process == 0:
    return _collect_reports(int(port), processes, timeout, end)
  host = host.strip('[]')  # of an IPv6 address
  while time.monotonic() < end:
    answer = ''
    with contextlib.suppress(OSError):  # it is not there yet, or went away
      answer = _report_to_leader((host, int(port)), process, processes, end)
    if answer == GO:
      return
    if answer:
      raise TimeoutError(answer)
    time.sleep(RETRY_INTERVAL)
  raise TimeoutError(
    f'process {process} of {processes} did not reach process 0 at {address} within'
    f' {timeout:g} s: start the same program on every host'
  )


def _report_to_leader(
  where: tuple[str, int], process: int, processes: int, end: float
) -> str:
  """What process 0 says to one of the others; empty if it hangs up."""
  with socket.create_connection(where, MESSAGE_TIMEOUT) as line:
    line.sendall(f'{process} of {processes}\n'.encode())
    line.settimeout(max(end - time.monotonic(), 0) + MESSAGE_TIMEOUT)
    return _read_line(line).decode(errors='replace')


def _collect_reports(port: int, processes: int, timeout: float, end: float) -> None:
  lines: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    server = stack.enter_context(
      socket.create_server(
        ('', port), family=family, dualstack_ipv6=family == socket.AF_INET6
      )
    )
    while len(lines) < processes - 1 and (left := end - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(TimeoutError):
        line = stack.enter_context(server.accept()[0])
        if number := _read_process_id(line, processes):
          if number in lines:
            said = f'two processes say that they are number {number}'
            _reply([*lines.values(), line], said)
            raise ValueError(said)
          lines[number] = line
    if missing := sorted({*range(1, processes)} - lines.keys()):
      who = ', '.join(map(str, missing[:20])) + ('...' if len(missing) > 20 else '')
      said = (
        f'{len(missing)} of {processes} processes did not come within {timeout:g} s:'
        f' {who}; start the same program on every host'
      )
      _reply(lines.values(), said)
      raise TimeoutError(said)
    _reply(lines.values(), GO)


def _read_process_id(line: socket.socket, processes: int) -> int | None:
  """The number of the process that called, None for a stranger."""
  line.settimeout(MESSAGE_TIMEOUT)
  try:
    number, _, total = _read_line(line).decode('ascii').strip().partition(' of ')
  except (OSError, UnicodeDecodeError):
    return None
  if total != str(processes) or not number.isdecimal():
    return None
  return int(number) if 0 < int(number) < processes else None


def _reply(lines: Iterable[socket.socket], answer: str) -> None:
  for line in lines:
    with contextlib.suppress(OSError):
      line.sendall(answer.encode() + b'\n')
      line.settimeout(MESSAGE_TIMEOUT)
      line.recv(1)  # they hang up first, so that the port is free again at once


def _read_line(line: socket.socket) -> bytes:
  """A message, without the end of its line."""
  message = b''
  while not message.endswith(b'\n') and len(message) < MAX_MESSAGE_BYTES:
    if not (more := line.recv(MAX_MESSAGE_BYTES)):
      break
    message += more
  return message.strip()
