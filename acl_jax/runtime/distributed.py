# SPDX-License-Identifier: Apache-2.0
"""Connects the processes of a job, configured by flags or the environment.

TPU pods need no settings. On other clusters every process needs the address of process
0, the number of processes and its own id. With no settings, run as a single process.
"""

import os
import socket
from typing import Any, NamedTuple

import jax
from absl import flags

from acl_jax.runtime import rendezvous, sigterm

WEEK = 7 * 24 * 3600  # s

_FLAGS = {
  'coordinator_address': flags.DEFINE_string(
    'coordinator_address',
    None,
    'host:port of process 0; defaults to $JAX_COORDINATOR_ADDRESS',
  ),
  'num_processes': flags.DEFINE_integer(
    'num_processes', None, 'processes in the job; defaults to $JAX_NUM_PROCESSES', 1
  ),
  'process_id': flags.DEFINE_integer(
    'process_id', None, 'id of this process, from 0; defaults to $JAX_PROCESS_ID', 0
  ),
}
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
  'initialization_timeout', 300, 'seconds to wait for all processes at start-up', 1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout', 100, 'seconds of silence before a process counts as dead', 1
)
_SHUTDOWN_TIMEOUT = flags.DEFINE_integer(
  'shutdown_timeout', 300, 'seconds to wait for all processes at shutdown', 1
)


class Cluster(NamedTuple):
  """The address of process 0, as host:port, and the place of this process."""

  coordinator_address: str
  num_processes: int
  process_id: int


def initialize() -> None:
  """Connect to the other processes of the job; further calls do nothing.

  A single process starts a coordinator too, because it is JAX's coordinator that turns
  SIGTERM into a last checkpoint. Call this before any other use of JAX. Raises
  TimeoutError with the ids of the missing processes.
  """
  if jax.distributed.is_initialized():
    return
  cluster = _from_flags() or _from_tpu_pod() or _single_process()
  heartbeat_timeout = _HEARTBEAT_TIMEOUT.value
  if cluster.num_processes > 1:
    rendezvous.wait_for_all(*cluster, float(_INITIALIZATION_TIMEOUT.value))
  else:  # no other process needs its heartbeats, and a laptop may sleep
    heartbeat_timeout = WEEK
  jax.distributed.initialize(
    cluster.coordinator_address,
    num_processes=cluster.num_processes,
    process_id=cluster.process_id,
    initialization_timeout=_INITIALIZATION_TIMEOUT.value,
    heartbeat_timeout_seconds=heartbeat_timeout,
    shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT.value,
  )
  if cluster.num_processes > 1:
    sigterm.call_native_handler()


def _from_flags() -> Cluster | None:
  """Read flags or the environment; ValueError if only some of the settings are set."""
  settings = {
    name: flag.value
    if flag.value is not None
    else os.environ.get(f'JAX_{name.upper()}')
    for name, flag in _FLAGS.items()
  }
  if settings['num_processes'] in (1, '1') and not settings['coordinator_address']:
    return _single_process()
  if not any(settings.values()):
    return None
  missing = [f'--{name}' for name, value in settings.items() if value in (None, '')]
  if missing:
    raise ValueError(
      f'{" and ".join(missing)} must be set too: a job of several processes needs the'
      ' address of process 0, the number of processes, and the id of each process'
    )
  address, *numbers = map(str, settings.values())
  try:
    num_processes, process_id = map(int, numbers)
  except ValueError:
    raise ValueError(
      f'JAX_NUM_PROCESSES and JAX_PROCESS_ID must be integers; they are {numbers}'
    ) from None
  if not 0 <= process_id < num_processes:
    raise ValueError(
      f'--process_id={process_id} must be at least 0 and less than'
      f' --num_processes={num_processes}'
    )
  return Cluster(address, num_processes, process_id)


def _from_tpu_pod() -> Cluster | None:
  """Read the metadata of a TPU slice; None if this host is not part of one."""
  config: Any = jax.config
  # JAX selects this platform by itself on hosts with TPUs.
  if 'tpu' not in (config.jax_platforms or ''):
    return None
  # Private, but the only way to learn these values before `jax.distributed.initialize`
  # uses them: that function aborts the process without naming the missing hosts.
  from jax._src.clusters import ClusterEnv

  detect: Any = ClusterEnv.auto_detect_unset_distributed_params
  address, num_processes, process_id, _ = detect(
    None, None, None, None, None, _INITIALIZATION_TIMEOUT.value
  )
  if address is None or num_processes is None or process_id is None:
    return None
  return Cluster(address, num_processes, process_id)


def _single_process() -> Cluster:
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    port = server.getsockname()[1]
  return Cluster(f'127.0.0.1:{port}', 1, 0)
