# SPDX-License-Identifier: Apache-2.0
"""The WebSocket of realtime sessions: admission, frames, time limits."""

import asyncio
import contextlib
import json

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from acl_jax.serving.realtime.listening import Ears
from acl_jax.serving.realtime.outbox import Outbox
from acl_jax.serving.realtime.session import Session
from acl_jax.serving.service import Service
from data_pipeline.voice_activity import find_silero

PATH = '/v1/realtime'
MAX_SESSIONS = 128
IDLE_SECONDS = 600.0
PROTOCOL = 'realtime'  # what browsers that send their key as a protocol ask for
TRY_AGAIN_LATER = 1_013


def routes(service: Service) -> list[WebSocketRoute]:
  """Return the routes of realtime conversations."""
  return [WebSocketRoute(PATH, Sessions(service).converse, name='realtime')]


class Sessions:
  """All sessions of a server.

  limit: of sessions at once. idle_seconds: without an event end a session.
  """

  def __init__(
    self,
    service: Service,
    limit: int = MAX_SESSIONS,
    idle_seconds: float = IDLE_SECONDS,
  ):
    self._ears = Ears(service, find_silero())
    self._limit, self._idle_seconds = limit, idle_seconds
    self.num_open = 0

  async def converse(self, websocket: WebSocket) -> None:
    """Serve a client until it leaves, or is idle for too long."""
    offered = websocket.scope.get('subprotocols', [])
    await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
    if self.num_open >= self._limit:
      message = f'{self._limit} realtime sessions are open, which is the limit'
      await _refuse(websocket, message, 'too_many_sessions', TRY_AGAIN_LATER)
      return
    self.num_open += 1
    try:
      await self._serve(websocket)
    finally:
      self.num_open -= 1

  async def _serve(self, websocket: WebSocket) -> None:
    loop, limit = asyncio.get_running_loop(), asyncio.timeout(self._idle_seconds)

    def end() -> None:
      with contextlib.suppress(RuntimeError):  # it has ended
        limit.reschedule(loop.time())

    outbox = Outbox(websocket.send_text, end)
    session = Session(self._ears, outbox)
    try:
      async with limit:
        await session.start()
        while (message := await websocket.receive())['type'] == 'websocket.receive':
          await session.handle(message.get('text') or message.get('bytes') or '')
          if not outbox.is_lost:
            limit.reschedule(loop.time() + self._idle_seconds)
    except TimeoutError:
      if not outbox.is_lost:
        message = f'there was no event for {self._idle_seconds:g} s'
        await _refuse(websocket, message, 'session_expired', 1_000)
    finally:
      await session.close()


async def _refuse(websocket: WebSocket, message: str, code: str, status: int) -> None:
  """Say why, and close; the client may be gone."""
  error = {'type': 'invalid_request_error', 'code': code, 'message': message}
  event = {'type': 'error', 'event_id': code, 'error': error | {'param': None}}
  try:
    async with asyncio.timeout(5):
      await websocket.send_text(json.dumps(event))
      await websocket.close(status)
  except Exception:  # whatever a closed connection raises
    return
