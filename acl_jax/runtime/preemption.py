# SPDX-License-Identifier: Apache-2.0
"""Preemption notices, agreed on by all processes of a job; see `runtime.sigterm`."""

import itertools

import jax
from jax.experimental import multihost_utils

from acl_jax.runtime import sigterm
from acl_jax.runtime.sigterm import Preempted, deferred

__all__ = ['deferred', 'install_handler', 'is_requested', 'raise_if_requested']

_num_checks = itertools.count()


def install_handler() -> None:
  """Handle SIGTERM again after `distributed.initialize` and the start of a backend.

  Both may have replaced the handler that `program.run` has installed.
  """
  jax.process_count()  # starts the backend
  sigterm.install()


def is_requested() -> bool:
  """Return whether to stop: once in all processes of a job, at the same call.

  All processes must call this equally often. They agree on the number of calls, not on
  the training step, because steps restart with each stage.
  """
  if jax.process_count() == 1 and sigterm.is_received():
    return True
  return multihost_utils.reached_preemption_sync_point(next(_num_checks))


def raise_if_requested(what: str) -> None:
  """Raise `Preempted` if the job is to stop; call it as often as `is_requested`.

  what: was interrupted.
  """
  if is_requested():
    raise Preempted(what)
