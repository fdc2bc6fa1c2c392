# SPDX-License-Identifier: Apache-2.0
"""How a training learns that its machine is taken away."""

import itertools
import os
import socket

import jax
from jax.experimental import multihost_utils

from acl_jax.parallel import xla_flags

WEEK = 7 * 24 * 3600  # s

_asked = itertools.count()


def start_distributed() -> None:
  """Joins the cluster, or makes one of this process alone.

  Always: it is JAX's coordinator that turns SIGTERM into a last checkpoint. What XLA is
  told of this machine's TPUs must be told before, too.
  """
  if jax.distributed.is_initialized():
    return
  xla_flags.set_here()
  if os.environ.get('JAX_COORDINATOR_ADDRESS') or os.environ.get(
    'TPU_WORKER_HOSTNAMES'
  ):
    jax.distributed.initialize()
    return
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  # Nobody waits for this process but itself: a machine that slept must not end it.
  jax.distributed.initialize(
    address, num_processes=1, process_id=0, heartbeat_timeout_seconds=WEEK
  )


def preempted() -> bool:
  """Whether this training was told to stop: every process hears it at the same time.

  All must ask equally often. The count of questions, not the step, is what they agree
  on: steps begin anew with each stage.
  """
  return multihost_utils.reached_preemption_sync_point(next(_asked))
