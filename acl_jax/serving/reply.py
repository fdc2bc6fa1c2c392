# SPDX-License-Identifier: Apache-2.0
"""A reply that grows: tokens of the engine's thread become text in the event loop."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from acl_jax.generation.live_requests import LiveToken
from acl_jax.serving.parts import Ticket
from acl_jax.text.detokenizer import Detokenizer, StopStrings
from acl_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ReplyOptions:
  """How to reply.

  max_new_tokens: None for the limit of the server. num_top_tokens: alternatives to
  report of each token.
  """

  max_new_tokens: int | None = None
  temperature: float = 0.0
  top_p: float = 1.0
  seed: int = 0
  stop: tuple[str, ...] = ()
  num_top_tokens: int = 0


class ReplyPiece(NamedTuple):
  """What has arrived since the last piece.

  text: whole characters. tokens: without the stop token and what follows a stop string.
  finish_reason: '' except in the last piece; 'stop', 'length', 'cancelled' or 'error'.
  """

  text: str
  tokens: list[LiveToken]
  finish_reason: str


@dataclasses.dataclass(frozen=True)
class Usage:
  """Tokens of a prompt, how many of them were reused from the cache, of its reply."""

  prompt_tokens: int
  cached_tokens: int
  completion_tokens: int


@dataclasses.dataclass
class Timing:
  """When a reply was asked for, had its first token, and ended; seconds, monotonic."""

  start: float
  first_token: float | None = None
  end: float | None = None


class Reply:
  """An async iterator of `ReplyPiece`s; `cancel` it if it is not read to its end.

  on_end: called once, when it has ended or is cancelled.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    stop: tuple[str, ...],
    on_end: Callable[['Reply'], None] = lambda reply: None,
  ):
    self._loop = asyncio.get_running_loop()
    self._arrived: asyncio.Queue[LiveToken] = asyncio.Queue()
    self._text, self._stop = Detokenizer(tokenizer), StopStrings(stop)
    self._ticket: Ticket | None = None
    self._on_end, self._num_tokens = on_end, 0
    self.timing = Timing(time.monotonic())

  def attach(self, ticket: Ticket) -> None:
    """Set the request that is replied to."""
    self._ticket = ticket

  def on_token(self, token: LiveToken) -> None:
    """Take a token, in any thread."""
    try:
      self._loop.call_soon_threadsafe(self._arrived.put_nowait, token)
    except RuntimeError:  # the loop is closed: nobody reads
      self.cancel()

  def cancel(self) -> None:
    """End the reply; its slot is free within a step."""
    if self._ticket is not None:
      self._ticket.cancel()
    self._end()

  @property
  def usage(self) -> Usage:
    """Tokens so far."""
    if self._ticket is None:
      return Usage(0, 0, 0)
    return Usage(self._ticket.num_prompt, self._ticket.num_cached, self._num_tokens)

  def __aiter__(self) -> AsyncIterator[ReplyPiece]:
    return self

  async def __anext__(self) -> ReplyPiece:
    if self.timing.end is not None:
      raise StopAsyncIteration
    tokens = [await self._arrived.get()]
    while not self._arrived.empty():
      tokens.append(self._arrived.get_nowait())
    if self.timing.first_token is None:
      self.timing.first_token = time.monotonic()
    piece = self._piece(tokens)
    if self._stop.found:
      self.cancel()
    elif piece.finish_reason:
      self._end()
    return piece

  def _piece(self, tokens: list[LiveToken]) -> ReplyPiece:
    text, kept = '', []
    for token in tokens:
      reason = token.finish_reason
      self._num_tokens += token.id >= 0
      if token.id >= 0 and reason != 'stop':
        text += self._stop.push(self._text.push(token.id))
        kept.append(token)
      if reason:
        text += self._stop.push(self._text.finish()) + self._stop.finish()
      if self._stop.found:
        return ReplyPiece(text, kept, 'stop')
      if reason:
        return ReplyPiece(text, kept, reason)
    return ReplyPiece(text, kept, '')

  def _end(self) -> None:
    if self.timing.end is None:
      self.timing.end = time.monotonic()
      self._on_end(self)
