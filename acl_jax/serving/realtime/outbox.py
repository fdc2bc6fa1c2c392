# SPDX-License-Identifier: Apache-2.0
"""Events to the client."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from absl import logging

from acl_jax.serving.realtime.items import new_id

SEND_SECONDS = 30.0  # after which a client that reads nothing is given up


class Outbox:
  """Sends events; never raises because of the client.

  send: a text frame. on_lost: called once when the client can no longer be reached.
  """

  def __init__(
    self, send: Callable[[str], Awaitable[None]], on_lost: Callable[[], None]
  ):
    self._send, self._on_lost, self.is_lost = send, on_lost, False

  async def __call__(self, kind: str, **fields: Any) -> None:
    """Send an event; waits while the client reads more slowly than we write."""
    if self.is_lost:
      return
    event = {'type': kind, 'event_id': new_id('event'), **fields}
    text = json.dumps(event, allow_nan=False)
    try:
      async with asyncio.timeout(SEND_SECONDS):
        await self._send(text)
    except Exception as error:  # whatever a closed connection raises
      if not self.is_lost:
        logging.info('a realtime client is gone: %r', error)
        self.is_lost = True
        self._on_lost()
