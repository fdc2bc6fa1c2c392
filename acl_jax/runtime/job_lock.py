# SPDX-License-Identifier: Apache-2.0
"""The lock of a folder to which all processes of a job write."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from acl_jax.runtime import barriers, locks, program

MINUTES = 10.0  # that other processes wait for process 0


@contextlib.contextmanager
def own_folder(folder: Path, flag: str) -> Iterator[None]:
  """As `locks.own_folder`, but only process 0 takes the lock.

  ValueError in all processes if it is refused.
  """
  with contextlib.ExitStack() as stack:
    refusal = ''
    if jax.process_index() == 0:
      try:
        stack.enter_context(locks.own_folder(folder, flag))
      except (ValueError, OSError) as error:
        refusal = program.error_message(error)
    if refusal := barriers.broadcast('lock', refusal, MINUTES):
      raise ValueError(refusal)
    yield
