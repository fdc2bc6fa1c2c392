# SPDX-License-Identifier: Apache-2.0
"""The processes of a job become one: which they are, from flags or the environment.

On a TPU pod nothing has to be said. Elsewhere every process is told where process 0 is,
how many there are and which it is. Who is told nothing is alone.
"""

import os
import socket
from typing import Any

import jax
from absl import flags
from jax._src.clusters import ClusterEnv  # how JAX finds the hosts of a pod

from acl_jax.runtime import rendezvous

WEEK = 7 * 24 * 3600  # s

_FLAGS = {
  'coordinator_address': flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0, or $JAX_COORDINATOR_ADDRESS'
  ),
  'num_processes': flags.DEFINE_integer(
    'num_processes', None, 'processes of this job, or $JAX_NUM_PROCESSES', 1
  ),
  'process_id': flags.DEFINE_integer(
    'process_id', None, 'which of them this is, from 0 on, or $JAX_PROCESS_ID', 0
  ),
}
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
  'initialization_timeout', 300, 's to wait for all processes at the start', 1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout', 100, 's of silence until a process counts as dead', 1
)
_SHUTDOWN_TIMEOUT = flags.DEFINE_integer(
  'shutdown_timeout', 300, 's to wait for all processes at the end', 1
)


def initialize() -> None:
  """Joins the other processes, or makes a job of this one alone; once is enough.

  Always, as it is JAX's coordinator that turns SIGTERM into a last checkpoint. Before
  any other use of JAX. TimeoutError with the numbers of the processes that are missing.
  """
  if jax.distributed.is_initialized():
    return
  heartbeat = _HEARTBEAT_TIMEOUT.value
  if where := _from_flags() or _from_tpu_pod():
    address, processes, process = where
  else:
    address, processes, process = f'127.0.0.1:{_free_port()}', 1, 0
  if processes > 1:
    rendezvous.wait_for_all(address, processes, process, _INITIALIZATION_TIMEOUT.value)
  else:  # nobody waits for it but itself: a machine that slept must not end it
    heartbeat = WEEK
  jax.distributed.initialize(
    address,
    num_processes=processes,
    process_id=process,
    initialization_timeout=_INITIALIZATION_TIMEOUT.value,
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT.value,
  )


def _from_flags() -> tuple[str, int, int] | None:
  """What flags or the environment say; ValueError if that is not all of it."""
  found = {
    name: flag.value
    if flag.value is not None
    else os.environ.get(f'JAX_{name.upper()}')
    for name, flag in _FLAGS.items()
  }
  if found['num_processes'] in (1, '1') and not found['coordinator_address']:
    return f'127.0.0.1:{_free_port()}', 1, 0
  if not any(found.values()):
    return None
  if missing := [f'--{name}' for name, value in found.items() if value in (None, '')]:
    raise ValueError(
      f'{" and ".join(missing)} must be given too: a process of several is told where'
      ' process 0 is, how many there are, and which it is'
    )
  address, *numbers = map(str, found.values())
  try:
    processes, process = map(int, numbers)
  except ValueError:
    raise ValueError(
      f'JAX_NUM_PROCESSES and JAX_PROCESS_ID are {numbers}, not whole numbers'
    ) from None
  if not 0 <= process < processes:
    raise ValueError(f'--process_id={process} is not below --num_processes={processes}')
  return address, processes, process


def _from_tpu_pod() -> tuple[str, int, int] | None:
  """What the hosts of a TPU slice know of each other."""
  config: Any = jax.config
  # JAX asks for this platform by itself where there are chips.
  if 'tpu' not in (config.jax_platforms or ''):
    return None
  detect: Any = ClusterEnv.auto_detect_unset_distributed_params
  address, processes, process, _ = detect(
    None, None, None, None, None, _INITIALIZATION_TIMEOUT.value
  )
  return (
    None if None in (address, processes, process) else (address, processes, process)
  )


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]
