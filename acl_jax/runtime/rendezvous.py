# SPDX-License-Identifier: Apache-2.0
"""A roll call before `jax.distributed` starts, so that missing processes are reported.

JAX aborts when a process is missing and does not report which. So process 0 first
collects a message from every other process, on the port that JAX's coordinator uses
afterwards.
"""

import contextlib
import socket
import time
from collections.abc import Iterable

GO = 'go'
MAX_MESSAGE_BYTES = 4_096  # longer messages come from unrelated clients
MESSAGE_TIMEOUT = 5.0  # s, for one message from a connected process
RETRY_INTERVAL = 0.2  # s
MAX_LISTED = 20  # process ids in an error message


def wait_for_all(
  address: str, num_processes: int, process_id: int, timeout: float
) -> None:
  """Wait until all processes have started.

  address: host:port of process 0. timeout: in seconds. Raises TimeoutError with the ids
  of the missing processes, and ValueError if two processes have the same id.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
    raise ValueError(f'--coordinator_address={address} is not host:port')
  deadline = time.monotonic() + timeout
  if process_id == 0:
    return _collect_reports(int(port), num_processes, timeout, deadline)
  server = host.strip('[]'), int(port)  # brackets enclose an IPv6 address
  while time.monotonic() < deadline:
    reply = ''
    with contextlib.suppress(OSError):  # process 0 has not started, or has ended
      reply = _report_to_leader(server, process_id, num_processes, deadline)
    if reply == GO:
      return
    if reply:
      raise TimeoutError(reply)
    time.sleep(RETRY_INTERVAL)
  raise TimeoutError(
    f'process {process_id} of {num_processes} did not reach process 0 at {address}'
    f' within {timeout:g} s: start the same program on every host'
  )


def _report_to_leader(
  server: tuple[str, int], process_id: int, num_processes: int, deadline: float
) -> str:
  """Report to process 0 and return its reply; empty if it closes the connection."""
  with socket.create_connection(server, MESSAGE_TIMEOUT) as connection:
    connection.sendall(f'{process_id} of {num_processes}\n'.encode())
    connection.settimeout(max(deadline - time.monotonic(), 0) + MESSAGE_TIMEOUT)
    return _read_line(connection).decode(errors='replace')


def _collect_reports(
  port: int, num_processes: int, timeout: float, deadline: float
) -> None:
  """Wait for the reports of all other processes, then send `GO` or an error to all."""
  connections: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port))
    while len(connections) < num_processes - 1:
      if (remaining := deadline - time.monotonic()) <= 0:
        break
      server.settimeout(remaining)
      with contextlib.suppress(TimeoutError):
        connection = stack.enter_context(server.accept()[0])
        if process_id := _read_process_id(connection, num_processes):
          if process_id in connections:
            message = f'two processes have --process_id={process_id}'
            _reply([*connections.values(), connection], message)
            raise ValueError(message)
          connections[process_id] = connection
    if missing := sorted({*range(1, num_processes)} - connections.keys()):
      ids = ', '.join(map(str, missing[:MAX_LISTED]))
      message = (
        f'{len(missing)} of {num_processes} processes did not connect within'
        f' {timeout:g} s: {ids}{"..." if len(missing) > MAX_LISTED else ""}; start the'
        ' same program on every host'
      )
      _reply(connections.values(), message)
      raise TimeoutError(message)
    _reply(connections.values(), GO)


def _listen(port: int) -> socket.socket:
  """Open a server socket for IPv4 and, where the system has it, IPv6."""
  dual_stack = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual_stack else socket.AF_INET
  return socket.create_server(('', port), family=family, dualstack_ipv6=dual_stack)


def _read_process_id(connection: socket.socket, num_processes: int) -> int | None:
  """Return the id of the process that has connected; None for unrelated clients."""
  connection.settimeout(MESSAGE_TIMEOUT)
  try:
    message = _read_line(connection).decode('ascii')
  except (OSError, UnicodeDecodeError):
    return None
  process_id, _, total = message.strip().partition(' of ')
  if total != str(num_processes) or not process_id.isdecimal():
    return None
  return int(process_id) if 0 < int(process_id) < num_processes else None


def _reply(connections: Iterable[socket.socket], message: str) -> None:
  for connection in connections:
    with contextlib.suppress(OSError):
      connection.sendall(message.encode() + b'\n')
      connection.settimeout(MESSAGE_TIMEOUT)
      # The other side closes first, so that the port is free again at once.
      connection.recv(1)


def _read_line(connection: socket.socket) -> bytes:
  """Return a message without the end of its line."""
  message = b''
  while not message.endswith(b'\n') and len(message) < MAX_MESSAGE_BYTES:
    if not (received := connection.recv(MAX_MESSAGE_BYTES)):
      break
    message += received
  return message.strip()
