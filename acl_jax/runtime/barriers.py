# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a training meet. Every wait has a name and an end, and who did
not come is named.
"""

import collections
import re
import socket
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the coordinator's client has no public name
from jax.experimental import multihost_utils
from jaxtyping import Num

MINUTE = 60_000  # ms

_barrier_counts: collections.Counter[str] = collections.Counter()


def wait(name: str, minutes: float) -> None:
  """Waits until all processes are here; TimeoutError with the names of those missing.

  All must come to the same names in the same order.
  """
  if jax.process_count() == 1:
    return
  client: Any = distributed.global_state.client
  process = jax.process_index()
  client.key_value_set(_host_key(process), socket.gethostname(), allow_overwrite=True)
  try:
    client.wait_at_barrier(_unique(name), int(minutes * MINUTE))
  except jax.errors.JaxRuntimeError as error:
    raise TimeoutError(_timeout_message(client, name, minutes, str(error))) from None


def broadcast(name: str, text: str, minutes: float) -> str:
  """What process 0 says, heard by all; TimeoutError if it says nothing."""
  if jax.process_count() == 1:
    return text
  client: Any = distributed.global_state.client
  key = _unique(name)
  if jax.process_index() == 0:
    client.key_value_set(key, text)
    return text
  try:
    return client.blocking_key_value_get(key, int(minutes * MINUTE))
  except jax.errors.JaxRuntimeError:
    host = _describe_process(client, 0)
    raise TimeoutError(f'{name}: no word from {host} for {minutes:g} min') from None


def all_gather(values: Num[np.ndarray, ' n']) -> Num[np.ndarray, 'p n']:
  """The values of every process."""
  if jax.process_count() == 1:
    return values[None]
  return np.asarray(multihost_utils.process_allgather(values))


def _unique(name: str) -> str:
  """A name may be met at again; to the coordinator each time is another."""
  _barrier_counts[name] += 1
  return f'acl_jax/{name}/{_barrier_counts[name]}'


def _host_key(process: int) -> str:
  return f'acl_jax/hosts/{process}'


def _describe_process(client: Any, process: int) -> str:
  """A process and, if it ever came to a barrier, its host."""
  known = dict(client.key_value_dir_get('acl_jax/hosts'))
  host = known.get(_host_key(process))
  return f'process {process} on {host}' if host else f'process {process}'


def _timeout_message(client: Any, name: str, minutes: float, error: str) -> str:
  """Who did not come, from what the coordinator says: it lists some of them."""
  _, _, late = error.partition('timed out task names:')
  late = late.partition('RPC:')[0]  # 0 1, or /job:x/replica:0/task:0 and so on
  processes = sorted({int(n) for n in re.findall(r'(?:task:|\s|^)(\d+)\b', late)})
  if not processes:
    return f'{name}: {" ".join(error.split())}'
  who = ', '.join(_describe_process(client, process) for process in processes)
  return f'{name}: {who} did not come within {minutes:g} min'
