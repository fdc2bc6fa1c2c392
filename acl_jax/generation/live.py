# SPDX-License-Identifier: Apache-2.0
"""The live engine: requests arrive and are cancelled at any time.

  submit ─► queue ─► LiveBatch: slots over a paged cache ─► on_token, token by token

Every shape is compiled by `warm_up`. A prompt reads only what no earlier one has read:
the earlier turns of its conversation, and the prefix that all prompts share, are found
in the cache. The batch engine (`generation.engine`) answers a fixed set of prompts
instead, without a look at the host between tokens.
"""

import collections
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import logging

from acl_jax.generation.live_batch import LiveBatch
from acl_jax.generation.live_requests import (
  EngineClosed,
  LiveConfig,
  LiveRequest,
  LiveStatistics,
  LiveToken,
  OnToken,
  QueueFull,
  Ticket,
  check_request,
  end,
)
from acl_jax.generation.live_sequence import name_positions
from acl_jax.generation.pages import Name
from acl_jax.models.llama import Llama


class LiveEngine:
  """Answers requests as they come: in a thread, after `start`, or by calls of `step`.

  stop_ids: tokens that end a response.
  """

  def __init__(self, llama: Llama, config: LiveConfig, stop_ids: Sequence[int]):
    if config.context > (limit := llama.config.max_position_embeddings):
      raise ValueError(f'context is {config.context}; the LLM has {limit} positions')
    self.config, self._llama_config = config, llama.config
    self._batch, self._mesh = (
      LiveBatch(llama, config, stop_ids),
      jax.sharding.get_mesh(),
    )
    self._waiting: collections.deque[tuple[Ticket, list[Name]]] = collections.deque()
    self._changed = threading.Condition()
    self._thread: threading.Thread | None = None
    self._closed = False

  @property
  def statistics(self) -> LiveStatistics:
    """Totals, and what is in progress."""
    return self._batch.statistics

  def warm_up(self, progress: Callable[[str], None] = logging.info) -> None:
    """Compile every shape, or load it from the persistent cache."""
    self._batch.warm_up(progress)

  def submit(self, request: LiveRequest, on_token: OnToken) -> Ticket:
    """Queue a request; `on_token` is called in the engine's thread.

    Raises ValueError for an invalid request, QueueFull or EngineClosed.
    """
    names = name_positions(request)
    check_request(request, len(names), self.config, self._llama_config)
    ticket = Ticket(request, on_token, len(names))
    with self._changed:
      if self._closed:
        raise EngineClosed('the engine is closing; it takes no more requests')
      if (waiting := len(self._waiting)) >= self.config.max_queue:
        seconds = (waiting + 1) * self.statistics.seconds_per_response
        raise QueueFull(self.config.max_queue, max(1, math.ceil(seconds)))
      self._waiting.append((ticket, names))
      self.statistics.requests += 1
      self._count()
    return ticket

  def stream(self, request: LiveRequest) -> Iterator[LiveToken]:
    """Yield the tokens of one response; leaving early cancels the request."""
    tokens: queue.SimpleQueue[LiveToken] = queue.SimpleQueue()
    ticket = self.submit(request, tokens.put)
    try:
      while True:
        while self._thread is None and tokens.empty():
          self.step()
        yield (token := tokens.get())
        if token.finish_reason:
          return
    finally:
      ticket.cancel()

  def step(self) -> None:
    """Admit requests, prefill a chunk of some, and decode a token of every response."""
    with self._changed:
      self._end_cancelled()
      while self._waiting:
        ticket, names = self._waiting[0]
        if not self._batch.has_space(len(names) + ticket.request.max_new_tokens):
          break
        self._waiting.popleft()
        self._batch.add(ticket, names)
      self._count()
    start = time.monotonic()
    self._batch.step()
    with self._changed:
      self.statistics.busy_seconds += time.monotonic() - start
      self._count()

  def start(self) -> None:
    """Answer requests in a thread, until `close`."""
    self._thread = threading.Thread(target=self._loop, name='engine', daemon=True)
    self._thread.start()

  def close(self, grace_seconds: float = 0) -> None:
    """Take no more requests; cancel those that are not answered in time."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
      if self._thread is not None:
        self._changed.wait_for(self._is_idle, grace_seconds)
      for ticket in self._tickets():
        ticket.cancel()
    if self._thread is not None:
      self._thread.join()
    else:
      self.step()

  def _tickets(self) -> list[Ticket]:
    running = [sequence.ticket for sequence in self._batch.running]
    return running + [ticket for ticket, _ in self._waiting]

  def _is_idle(self) -> bool:
    return not (self._batch.running or self._waiting)

  def _loop(self) -> None:
    mesh = self._mesh
    with contextlib.nullcontext() if mesh.empty else jax.set_mesh(mesh):
      while True:
        with self._changed:
          self._changed.wait_for(lambda: self._closed or not self._is_idle())
          if self._is_idle():
            return
        try:
          self.step()
        except Exception:
          logging.exception('the engine failed; the responses in progress end here')
          self._fail()

  def _end_cancelled(self) -> None:
    for sequence in [x for x in self._batch.running if x.ticket.cancelled]:
      self._batch.finish(sequence, 'cancelled')
      self.statistics.cancelled += 1
    cancelled = [entry for entry in self._waiting if entry[0].cancelled]
    for ticket, _ in cancelled:
      ticket.emit(end('cancelled'))
      self.statistics.cancelled += 1
    self._waiting = collections.deque(
      entry for entry in self._waiting if not entry[0].cancelled
    )

  def _fail(self) -> None:
    """End all responses; the cache may be lost, so that it begins anew."""
    with self._changed:
      for sequence in list(self._batch.running):
        self._batch.finish(sequence, 'error')
        self.statistics.failed += 1
      self._batch.clear()
      self._count()

  def _count(self) -> None:
    self.statistics.queued = len(self._waiting)
    self.statistics.running = len(self._batch.running)
    self._changed.notify_all()
