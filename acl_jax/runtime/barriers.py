# SPDX-License-Identifier: Apache-2.0
"""Barriers and broadcasts between the processes of a job.

Every wait has a name and a timeout. Errors list the processes that are missing.
"""

import collections
import re
import socket

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int32, Num
from orbax.checkpoint import multihost

MS_PER_MINUTE = 60_000
MAX_HOST_NAME_BYTES = 256

_barrier_counts: collections.Counter[str] = collections.Counter()
_host_names: list[str] = []  # by process; empty before the first barrier


def wait(name: str, minutes: float) -> None:
  """Wait until all processes are at the barrier `name`.

  All processes must use the same names in the same order; a name can be used again.
  Raises TimeoutError that lists the missing processes.
  """
  if jax.process_count() == 1:
    return
  _barrier_counts[name] += 1
  key = f'acl_jax/{name}/{_barrier_counts[name]}'  # unique for JAX's coordinator
  try:
    multihost.get_barrier_sync_fn()(key=key, timeout_ms=int(minutes * MS_PER_MINUTE))
  except jax.errors.JaxRuntimeError as error:
    raise TimeoutError(_timeout_message(name, minutes, str(error))) from None
  if not _host_names:
    _host_names.extend(_gather_host_names())


def broadcast(name: str, text: str, minutes: float) -> str:
  """Return the `text` of process 0 in every process.

  Raises TimeoutError, as in `wait`, if a process is missing.
  """
  if jax.process_count() == 1:
    return text
  wait(name, minutes)
  content = _to_array(text)
  (size,) = multihost_utils.broadcast_one_to_all(np.asarray([content.size], np.int32))
  if jax.process_index() != 0:
    content = np.zeros(size, np.int32)
  return _to_text(multihost_utils.broadcast_one_to_all(content))


def all_gather(values: Num[np.ndarray, ' n']) -> Num[np.ndarray, 'p n']:
  """Return the values of every process."""
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def _gather_host_names() -> list[str]:
  padded = np.zeros(MAX_HOST_NAME_BYTES, np.int32)
  name = _to_array(socket.gethostname())[:MAX_HOST_NAME_BYTES]
  padded[: name.size] = name
  return [_to_text(row).rstrip('\0') for row in all_gather(padded)]


def _to_array(text: str) -> Int32[np.ndarray, ' n']:
  """Return the UTF-8 bytes, as int32 because every backend can sum and gather those."""
  return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def _to_text(content: Int32[np.ndarray, ' n']) -> str:
  return np.asarray(content).astype(np.uint8).tobytes().decode(errors='replace')


def _describe_process(process: int) -> str:
  """Return the process id and, if it has passed a barrier before, its host name."""
  if not _host_names:
    return f'process {process}'
  return f'process {process} on {_host_names[process]}'


def _timeout_message(name: str, minutes: float, error: str) -> str:
  """Return which processes are missing, according to the coordinator's error.

  The coordinator lists some of them, as '0 1' or '/job:x/replica:0/task:0'.
  """
  _, _, tasks = error.partition('timed out task names:')
  tasks = tasks.partition('RPC:')[0]
  processes = sorted({int(n) for n in re.findall(r'(?:task:|\s|^)(\d+)\b', tasks)})
  if not processes:
    return f'{name}: {" ".join(error.split())}'
  missing = ', '.join(map(_describe_process, processes))
  return f'{name}: {missing} did not arrive within {minutes:g} min'
