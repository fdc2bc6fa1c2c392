# SPDX-License-Identifier: Apache-2.0
"""Preemption notices: SIGTERM, agreed on by all processes."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

_num_checks = itertools.count()
_sigterm_received = threading.Event()


def install_handler() -> None:
  """Handle SIGTERM at once in a single-process job; JAX polls for it once a second."""
  if jax.process_count() == 1:
    signal.signal(signal.SIGTERM, lambda *_: _sigterm_received.set())


def is_requested() -> bool:
  """Return whether to stop; the answer changes in all processes at the same call.

  All processes must call this equally often. They agree on the number of calls, not on
  the training step, because steps restart with each stage.
  """
  return _sigterm_received.is_set() or multihost_utils.reached_preemption_sync_point(
    next(_num_checks)
  )
