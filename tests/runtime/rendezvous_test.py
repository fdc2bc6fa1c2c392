# SPDX-License-Identifier: Apache-2.0
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from acl_jax.runtime import rendezvous


@pytest.fixture
def address():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


def call(address, processes, present, timeout=1.0):
  """What came of it in each process that is present: None, or an error."""

  def one(process):
    try:
      return rendezvous.wait_for_all(address, processes, process, timeout)
    except (OSError, ValueError) as error:
      return error

  with ThreadPoolExecutor(len(present)) as pool:
    return [*pool.map(one, present)]


def test_all_go_when_all_are_there_and_the_port_is_free_again(address):
  for _ in range(2):
    assert call(address, 4, [3, 0, 2, 1], timeout=20.0) == [None] * 4


def test_those_who_are_missing_are_named_to_all(address):
  found = call(address, 5, [0, 3, 1])
  assert [str(error) for error in found] == [
    '2 of 5 processes did not come within 1 s: 2, 4; start the same program on every'
    ' host'
  ] * 3
  assert {type(error) for error in found} == {TimeoutError}


def test_one_that_is_alone_ends_in_time(address):
  start = time.monotonic()
  (error,) = call(address, 2, [1], timeout=0.5)
  assert time.monotonic() - start < 5
  assert f'process 1 of 2 did not reach process 0 at {address} within 0.5 s' in str(
    error
  )


def test_two_of_one_number_are_refused(address):
  found = call(address, 3, [0, 1, 1], timeout=20.0)
  assert ['two processes say that they are number 1'] * 3 == [*map(str, found)]


def test_strangers_are_not_counted(address):
  """A scanner of ports that says nothing, one that talks much, a process of others."""
  words = b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff' * 10_000, b'2 of 7\n', b'0 of 3\n'

  def disturb():
    host, port = address.split(':')
    for word in words:
      for _ in range(50):
        try:
          with socket.create_connection((host, int(port)), 1) as line:
            line.sendall(word)
          break
        except OSError:
          time.sleep(0.05)

  stranger = threading.Thread(target=disturb)
  stranger.start()
  try:
    found = call(address, 3, [0, 1], timeout=3.0)
  finally:
    stranger.join()
  assert all('1 of 3 processes did not come' in str(error) for error in found)


@pytest.mark.parametrize('bad', ['here', 'here:', ':1234', 'here:many', 'here:70000'])
def test_an_address_is_host_and_port(bad):
  with pytest.raises(ValueError, match='is not host:port'):
    rendezvous.wait_for_all(bad, 2, 1, 1.0)
