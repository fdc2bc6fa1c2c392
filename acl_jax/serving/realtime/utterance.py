# SPDX-License-Identifier: Apache-2.0
"""An utterance that is heard while it is spoken."""

import asyncio
from concurrent.futures import Executor

import numpy as np

from acl_jax.serving.parts import Heard, Listener
from acl_jax.serving.realtime.audio import Samples
from acl_jax.serving.realtime.items import new_id


class Utterance:
  """Passes audio on to a listener in threads, in order, never on the event loop.

  id: of the item that it becomes.
  """

  def __init__(self, listener: Listener, pool: Executor):
    self.id = new_id('item')
    self._listener, self._pool = listener, pool
    self._waiting: list[Samples] = []
    self._is_dropped = False
    self._passing: asyncio.Task[None] | None = None

  def append(self, samples: Samples) -> None:
    """Add audio; returns at once."""
    self._waiting.append(samples)
    if self._passing is None or (self._passing.done() and not _failed(self._passing)):
      self._passing = asyncio.create_task(self._pass_on())

  def finish(self) -> asyncio.Task[Heard]:
    """Begin to hear the end; what fails on the way is raised by the task."""
    return asyncio.create_task(self._finish())

  def drop(self) -> None:
    """Hear no more of it."""
    self._is_dropped = True
    self._waiting.clear()

  async def _pass_on(self) -> None:
    loop = asyncio.get_running_loop()
    while self._waiting:
      samples = np.concatenate(self._waiting)
      self._waiting.clear()
      await loop.run_in_executor(self._pool, self._append, samples)

  def _append(self, samples: Samples) -> None:
    if not self._is_dropped:  # it may have waited for a thread
      self._listener.append(samples)

  async def _finish(self) -> Heard:
    if self._passing is not None:
      await self._passing
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._pool, self._listener.finish)


def _failed(task: asyncio.Task[None]) -> bool:
  return task.cancelled() or task.exception() is not None
