# SPDX-License-Identifier: Apache-2.0
"""A realtime session: its settings, its conversation, and what each event does."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from acl_jax.serving.realtime import editing, schema
from acl_jax.serving.realtime.errors import ClientError, error_body
from acl_jax.serving.realtime.items import (
  Conversation,
  Item,
  check_answerable,
  new_id,
)
from acl_jax.serving.realtime.listening import Ears, Listening
from acl_jax.serving.realtime.request import Request
from acl_jax.serving.realtime.response import Emit, Response


class Session:
  """Handles one event after the other; `emit` sends the answers."""

  def __init__(self, ears: Ears, emit: Emit):
    self.id, self._service, self._emit = new_id('sess'), ears.service, emit
    self._settings = schema.Settings()
    if self._service.voice is None:
      self._settings = self._settings.updated({'output_modalities': ['text']})
    self._conversation = Conversation()
    self._listening = Listening(
      ears, emit, self._conversation, self._on_speech, self._on_turn
    )
    self._response: Response | None = None
    self._running: asyncio.Task[None] | None = None  # of the last response
    self._num_responses = 0
    self._handlers = {
      'session.update': self._update,
      'input_audio_buffer.append': self._append,
      'input_audio_buffer.commit': self._commit,
      'input_audio_buffer.clear': self._clear,
      'conversation.item.create': self._create_item,
      'conversation.item.delete': self._delete_item,
      'conversation.item.retrieve': self._retrieve_item,
      'conversation.item.truncate': self._truncate_item,
      'response.create': self._create_response,
      'response.cancel': self._cancel_response,
    }

  async def start(self) -> None:
    """Greet the client."""
    await self._emit('session.created', session=self._to_json())

  async def handle(self, frame: str | bytes) -> None:
    """Handle a frame; a bad one is answered with an `error` event."""
    event_id = None
    try:
      event = schema.parse_json(frame)
      if isinstance(event.get('event_id'), str):
        event_id = event['event_id'][:512]
      kind, fields = schema.parse_event(event)
      await self._handlers[kind](fields)
    except Exception as error:
      await self._emit('error', error=error_body(error, event_id))

  async def close(self) -> None:
    """End what is in progress, without a word."""
    if self._running is not None:
      self._running.cancel()
      await asyncio.wait({self._running})
    await self._listening.close()

  def _to_json(self) -> dict[str, Any]:
    return {
      'id': self.id,
      'object': 'realtime.session',
      'model': self._service.name,
      **self._settings.model_dump(),
    }

  async def _update(self, event: schema.SessionUpdate) -> None:
    try:
      settings = self._settings.updated(event.session)
    except ValidationError as error:
      raise schema.as_client_error(error, 'session') from None
    self._check_voice(settings.output_modalities, 'session.output_modalities')
    self._listening.configure(settings.audio.input)
    self._settings = settings
    await self._emit('session.updated', session=self._to_json())

  async def _append(self, event: schema.AudioAppend) -> None:
    await self._listening.append(event.audio)

  async def _commit(self, event: schema.ClientEvent) -> None:
    await self._listening.commit()

  async def _clear(self, event: schema.ClientEvent) -> None:
    await self._listening.clear()

  async def _create_item(self, event: schema.ItemCreate) -> None:
    item, pcm = editing.make_item(event.item)
    self._listening.check_length(pcm)
    previous = self._conversation.add(item, event.previous_item_id)
    await self._listening.hear(item, pcm)
    place = {'previous_item_id': previous, 'item': item.to_json()}
    await self._emit('conversation.item.added', **place)
    await self._emit('conversation.item.done', **place)

  async def _delete_item(self, event: schema.ItemName) -> None:
    if self._response_with(event.item_id) is not None:
      raise ClientError(
        f'item {event.item_id!r} is being written; cancel the response first'
      )
    self._conversation.delete(event.item_id)
    await self._emit('conversation.item.deleted', item_id=event.item_id)

  async def _retrieve_item(self, event: schema.ItemName) -> None:
    item = self._conversation.get(event.item_id)
    await self._emit('conversation.item.retrieved', item=item.to_json())

  async def _truncate_item(self, event: schema.ItemTruncate) -> None:
    item = self._conversation.get(event.item_id)
    editing.check_truncation(item, event.content_index, event.audio_end_ms)
    if (response := self._response_with(item.id)) is not None:
      await self._stop(response, 'client_cancelled')
    editing.truncate(item, event.content_index, event.audio_end_ms)
    await self._emit(
      'conversation.item.truncated',
      item_id=item.id,
      content_index=event.content_index,
      audio_end_ms=event.audio_end_ms,
    )

  async def _create_response(self, event: schema.ResponseCreate) -> None:
    options = event.response or schema.ResponseOptions()
    self._check_voice(options.output_modalities or [], 'response.output_modalities')
    items = list(self._conversation)
    if options.input is not None:
      items = editing.resolve(options.input, self._conversation)
    await self._respond(options, items)

  async def _cancel_response(self, event: schema.ResponseCancel) -> None:
    response = self._active()
    if response is None or event.response_id not in (None, response.id):
      raise ClientError('there is no such response in progress', 'response_not_active')
    await self._stop(response, 'client_cancelled')

  async def _respond(self, options: schema.ResponseOptions, items: list[Item]) -> None:
    if (active := self._active()) is not None:
      raise ClientError(
        f'the response {active.id!r} is in progress; cancel it or wait for its end',
        'conversation_already_has_active_response',
      )
    check_answerable(items)
    if self._running is not None:
      await asyncio.wait({self._running})  # its last event is on its way
    conversation = self._conversation if options.conversation == 'auto' else None
    request = Request(
      self._settings, options, items, conversation, seed=self._num_responses
    )
    self._num_responses += 1
    self._response = Response(self._service, self._emit, request)
    self._running = asyncio.create_task(self._run(self._response))

  async def _run(self, response: Response) -> None:
    try:
      await response.run()
    except Exception as error:
      await self._emit('error', error=error_body(error))

  async def _on_speech(self) -> None:
    """Let the user interrupt."""
    detection, response = self._settings.audio.input.turn_detection, self._active()
    if detection and detection.interrupt_response and response is not None:
      await self._stop(response, 'turn_detected')

  async def _on_turn(self) -> None:
    """Answer a turn that has ended."""
    detection = self._settings.audio.input.turn_detection
    if detection and detection.create_response:
      await self._respond(schema.ResponseOptions(), list(self._conversation))

  def _active(self) -> Response | None:
    """Return the response in progress."""
    response = self._response
    return response if response and response.status == 'in_progress' else None

  def _response_with(self, item_id: str) -> Response | None:
    """Return the response that is writing an item."""
    response = self._active()
    return response if response and response.item.id == item_id else None

  async def _stop(self, response: Response, reason: str) -> None:
    response.cancel(reason)
    if self._running is not None:
      await asyncio.wait({self._running})

  def _check_voice(self, modalities: Sequence[str], param: str) -> None:
    if 'audio' in modalities and self._service.voice is None:
      raise ClientError('this server has no voice; ask for ["text"]', param=param)
