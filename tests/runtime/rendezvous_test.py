# SPDX-License-Identifier: Apache-2.0
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from acl_jax.runtime import rendezvous


@pytest.fixture
def address():
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{server.getsockname()[1]}'


def outcome(address, num_processes, process_id, timeout):
  """None if the process may start, otherwise the error that it raises."""
  try:
    return rendezvous.wait_for_all(address, num_processes, process_id, timeout)
  except (OSError, ValueError) as error:
    return error


def outcomes(address, num_processes, process_ids, timeout):
  """Those of several processes that start at the same time."""
  with ThreadPoolExecutor(len(process_ids)) as pool:
    futures = [
      pool.submit(outcome, address, num_processes, process_id, timeout)
      for process_id in process_ids
    ]
    return [future.result() for future in futures]


def test_all_start_when_complete_and_the_port_is_free_again(address):
  for _ in range(2):
    assert outcomes(address, 4, [3, 0, 2, 1], timeout=20.0) == [None] * 4


def test_missing_processes_are_reported_to_all(address):
  errors = outcomes(address, 5, [0, 3, 1], timeout=0.5)
  assert [str(error) for error in errors] == [
    '2 of 5 processes did not connect within 0.5 s: 2, 4; start the same program on'
    ' every host'
  ] * 3
  assert {type(error) for error in errors} == {TimeoutError}


def test_a_single_process_of_two_times_out(address):
  start = time.monotonic()
  (error,) = outcomes(address, 2, [1], timeout=0.25)
  assert time.monotonic() - start < 5
  assert f'process 1 of 2 did not reach process 0 at {address} within 0.25 s' in str(
    error
  )


def test_duplicate_process_ids_are_reported_to_all(address):
  errors = outcomes(address, 3, [0, 1, 1], timeout=20.0)
  assert ['two processes have --process_id=1'] * 3 == [*map(str, errors)]


def test_unrelated_clients_are_not_counted(address):
  """A silent port scanner, verbose clients, and a process of another job.

  If one of them were counted as process 2, processes 0 and 1 would start.
  """
  messages = b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 10_000, b'2 of 7\n', b'0 of 3\n'

  def send(message):
    host, port = address.split(':')
    for _ in range(200):
      try:
        with socket.create_connection((host, int(port)), 1) as connection:
          connection.sendall(message)
        return
      except OSError:
        time.sleep(0.05)
    raise TimeoutError(message)

  errors = []
  waiting = threading.Thread(
    target=lambda: errors.extend(outcomes(address, 3, [0, 1], timeout=20.0))
  )
  waiting.start()
  for message in messages:
    send(message)
  duplicate = outcome(address, 3, 1, timeout=20.0)  # ends the wait of all
  waiting.join()
  assert ['two processes have --process_id=1'] * 3 == [*map(str, [*errors, duplicate])]


@pytest.mark.parametrize('bad', ['here', 'here:', ':1234', 'here:many', 'here:70000'])
def test_addresses_need_a_host_and_a_port(bad):
  with pytest.raises(ValueError, match=f'--coordinator_address={bad} .*host:port'):
    rendezvous.wait_for_all(bad, 2, 1, 1.0)
