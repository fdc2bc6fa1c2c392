# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: a response that ends its work when the client is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from absl import logging
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from acl_jax.serving.errors import APIError

DONE = b'data: [DONE]\n\n'

Item = TypeVar('Item')


class EventStream(Response):
  """Sends each item as a `data:` event, then [DONE]; an error becomes an event.

  on_end: always called, also when the client has disconnected.
  """

  def __init__(
    self, items: AsyncGenerator[dict[str, Any], None], on_end: Callable[[], None]
  ):
    self._items, self._on_end = items, on_end
    self.status_code, self.background = 200, None
    self.init_headers(
      {
        'Content-Type': 'text/event-stream; charset=utf-8',
        'Cache-Control': 'no-store',
        'X-Accel-Buffering': 'no',  # proxies must not collect the events
      }
    )

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    sending = asyncio.ensure_future(self._send(send))
    gone = asyncio.ensure_future(wait_for_disconnect(receive))
    try:
      await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
      self._on_end()
      sending.cancel()
      gone.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await sending

  async def _send(self, send: Send) -> None:
    def body(data: bytes, more: bool = True) -> dict[str, Any]:
      return {'type': 'http.response.body', 'body': data, 'more_body': more}

    headers = self.raw_headers
    async with contextlib.aclosing(self._items) as items:
      await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
      try:
        async for item in items:
          await send(body(_event(item)))
      except APIError as error:
        await send(body(_event(error.body())))
      except Exception:
        logging.exception('a stream failed')
        error = APIError(500, 'the server failed on this request')
        await send(body(_event(error.body())))
      await send(body(DONE, more=False))


def _event(item: dict[str, Any]) -> bytes:
  text = json.dumps(item, ensure_ascii=False, separators=(',', ':'))
  return b'data: ' + text.encode() + b'\n\n'


async def wait_for_disconnect(receive: Receive) -> None:
  """Return when the client has disconnected."""
  while (await receive())['type'] != 'http.disconnect':
    pass


async def merge(
  sources: Sequence[AsyncIterator[Item]],
) -> AsyncGenerator[tuple[int, Item], None]:
  """Yield (index of the source, item) of several sources, as they come."""
  items: asyncio.Queue[tuple[int, Item] | Exception | None] = asyncio.Queue()

  async def read(index: int, source: AsyncIterator[Item]) -> None:
    try:
      async for item in source:
        items.put_nowait((index, item))
      items.put_nowait(None)
    except Exception as error:
      items.put_nowait(error)

  tasks = [asyncio.create_task(read(i, s)) for i, s in enumerate(sources)]
  try:
    open_sources = len(tasks)
    while open_sources:
      item = await items.get()
      if isinstance(item, Exception):
        raise item
      if item is None:
        open_sources -= 1
      else:
        yield item
  finally:
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
