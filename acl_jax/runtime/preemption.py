# SPDX-License-Identifier: Apache-2.0
"""How a training learns that its machine is taken away."""

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

_num_checks = itertools.count()
_sigterm_received = threading.Event()


def install_handler() -> None:
  """A process that is alone hears SIGTERM at once; JAX looks for it once a second."""
  if jax.process_count() == 1:
    signal.signal(signal.SIGTERM, lambda *_: _sigterm_received.set())


def is_requested() -> bool:
  """Whether this training was told to stop: every process hears it at the same time.

  All must ask equally often. The count of questions, not the step, is what they agree
  on: steps begin anew with each stage.
  """
  return _sigterm_received.is_set() or multihost_utils.reached_preemption_sync_point(
    next(_num_checks)
  )
