# SPDX-License-Identifier: Apache-2.0
"""A response: written and spoken at once, cancelled at any time."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from acl_jax.serving.errors import APIError
from acl_jax.serving.realtime.errors import error_body, short_error
from acl_jax.serving.realtime.items import (
  Content,
  Item,
  check_answerable,
  forget,
  forgettable,
  new_id,
  to_turns,
)
from acl_jax.serving.realtime.request import Request
from acl_jax.serving.realtime.speaker import Speaker
from acl_jax.serving.reply import Reply
from acl_jax.serving.service import Service

# Tokens that a reply should have space for; older turns are forgotten for it.
MIN_REPLY = 128

Emit = Callable[..., Awaitable[None]]  # an event's type, and its fields


class Response:
  """Runs once; emits everything from `response.created` to `response.done`."""

  def __init__(self, service: Service, emit: Emit, request: Request):
    self.id, self.status = new_id('resp'), 'in_progress'
    self._service, self._emit, self._request = service, emit, request
    kind = 'output_audio' if request.is_spoken else 'output_text'
    self._content = Content(kind)
    self.item = Item(new_id('item'), 'assistant', [self._content], 'in_progress')
    self._is_open = False  # whether the item is known to the client
    self._details: dict[str, Any] | None = None
    self._reply: Reply | None = None
    self._num_audio = 0  # audio embeddings in the prompt
    self._speaker: Speaker | None = None
    self._work: asyncio.Task[str] | None = None
    self._reason = ''  # for which it is to be cancelled
    self._start, self._timing = time.monotonic(), dict[str, float]()

  def cancel(self, reason: str) -> None:
    """Stop; 'turn_detected' or 'client_cancelled'. `run` then ends soon."""
    self._reason = self._reason or reason
    if self._work is not None:
      self._work.cancel()

  async def run(self) -> None:
    """Answer. What fails makes the response a failed one, and raises nothing."""
    await self._emit('response.created', response=self.to_json())
    self._work = asyncio.create_task(self._answer())
    try:
      if self._reason:
        self._work.cancel()
      await asyncio.wait({self._work})
    finally:
      self._work.cancel()
      if self._reply is not None:
        self._reply.cancel()
      if self._speaker is not None:
        await self._speaker.stop()
    self._settle(self._work)
    if self._is_open:
      await self._close()
    await self._emit('response.done', response=self.to_json())

  def to_json(self) -> dict[str, Any]:
    """Return the response as events show it."""
    request, settings = self._request, self._request.settings
    conversation = request.conversation
    return {
      'id': self.id,
      'object': 'realtime.response',
      'status': self.status,
      'status_details': self._details,
      'output': [self.item.to_json()] if self._is_open else [],
      'conversation_id': conversation.id if conversation else None,
      'output_modalities': ['audio' if request.is_spoken else 'text'],
      'max_output_tokens': request.max_output_tokens,
      'audio': {'output': settings.audio.output.model_dump()},
      'metadata': request.options.metadata,
      'usage': self._usage(),
      'timing': self._timing,
    }

  async def _answer(self) -> str:
    """Write and speak; return why the reply ended."""
    finish_reason = ''
    items = [*self._request.items]
    while (reply := await self._begin(items)) is None:
      older = forgettable(items)
      items = [item for item in items if item not in older]
    # Only now, so that what cannot be answered at all changes nothing.
    forget(item for item in self._request.items if item not in items)
    async for piece in reply:
      self._note('first_token_ms')
      if not self._is_open:
        await self._open()
      if piece.text:
        await self._write(piece.text)
      finish_reason = piece.finish_reason or finish_reason
    if self._speaker is not None:
      await self._speaker.finish()
    return finish_reason

  async def _begin(self, items: Sequence[Item]) -> Reply | None:
    """Ask for the reply; None if there is more space once old turns are forgotten."""
    request = self._request
    turns, clips = await to_turns(request.instructions, items)
    check_answerable(turns)  # there may have been nothing to hear
    self._note('hear_ms')
    can_forget = bool(forgettable(items))
    try:
      reply = self._service.reply(turns, clips, request.reply_options)
    except APIError as error:
      if error.code == 'context_length_exceeded' and can_forget:
        return None
      raise
    self._reply, usage = reply, reply.usage
    if usage.prompt_tokens + MIN_REPLY > self._service.limits.context and can_forget:
      reply.cancel()
      return None
    self._num_audio = sum(len(clip.embeddings) for clip in clips)
    return reply

  async def _write(self, text: str) -> None:
    self._content.text += text
    spoken = self._request.is_spoken
    kind = 'output_audio_transcript' if spoken else 'output_text'
    await self._emit(f'response.{kind}.delta', delta=text, **self._place())
    if self._speaker is not None:
      self._speaker.write(text)

  async def _send_audio(self, pcm: bytes) -> None:
    self._note('first_audio_ms')
    delta = base64.b64encode(pcm).decode()
    await self._emit('response.output_audio.delta', delta=delta, **self._place())

  async def _report_voice(self, error: Exception) -> None:
    body = error_body(error)
    body['message'] = (
      f'the voice failed, and the text continues without it: {body["message"]}'
    )
    await self._emit('error', error=body)

  async def _open(self) -> None:
    """Show the item; audio may follow."""
    item, conversation = self.item.to_json(), self._request.conversation
    previous = None if conversation is None else conversation.add(self.item)
    self._is_open = True
    await self._emit('response.output_item.added', item=item, **self._item_place())
    if conversation is not None:
      await self._emit('conversation.item.added', previous_item_id=previous, item=item)
    await self._emit('response.content_part.added', part=self._part(), **self._place())
    if self._request.is_spoken and self._service.voice is not None:
      self._speaker = Speaker(self._service.voice, self._send_audio, self._report_voice)
      self._content.spoken = self._speaker.spoken

  async def _close(self) -> None:
    """Show what the item has become."""
    place, text = self._place(), self._content.text
    if self._request.is_spoken:
      await self._emit('response.output_audio.done', **place)
      await self._emit(
        'response.output_audio_transcript.done', transcript=text, **place
      )
    else:
      await self._emit('response.output_text.done', text=text, **place)
    await self._emit('response.content_part.done', part=self._part(), **place)
    item = self.item.to_json()
    await self._emit('response.output_item.done', item=item, **self._item_place())
    if self._request.conversation is not None:
      await self._emit('conversation.item.done', item=item)

  def _settle(self, work: asyncio.Task[str]) -> None:
    """Decide the status by how the work ended."""
    if work.cancelled():
      self._end('cancelled', reason=self._reason or 'client_cancelled')
      self._cut_unplayed()
    elif error := work.exception():
      self._end('failed', error=short_error(error))
    elif (reason := work.result()) in ('stop', ''):
      self._end('completed')
    elif reason in ('cancelled', 'error'):
      message = 'the engine stopped' if reason == 'cancelled' else 'the engine failed'
      self._end('failed', error=short_error(APIError(503, message)))
    else:
      named = 'max_output_tokens' if reason == 'length' else reason
      self._end('incomplete', reason=named)

  def _end(self, status: str, **details: Any) -> None:
    self.status = status
    self.item.status = 'completed' if status == 'completed' else 'incomplete'
    self._details = {'type': status, **details}

  def _cut_unplayed(self) -> None:
    """Keep the text that can have been heard; the client may cut more."""
    speaker = self._speaker
    if speaker is None or speaker.has_failed:
      return
    played = 1_000 * (time.monotonic() - self._start)
    played -= self._timing.get('first_audio_ms', played)
    self._content.text = speaker.spoken.text_until(played)

  def _part(self) -> dict[str, Any]:
    if self._request.is_spoken:
      return {'type': 'audio', 'transcript': self._content.text}
    return {'type': 'text', 'text': self._content.text}

  def _note(self, moment: str) -> None:
    """Note when something happened first, in milliseconds from the start."""
    elapsed = 1_000 * (time.monotonic() - self._start)
    self._timing.setdefault(moment, round(elapsed, 1))

  def _item_place(self) -> dict[str, Any]:
    return {'response_id': self.id, 'output_index': 0}

  def _place(self) -> dict[str, Any]:
    return {**self._item_place(), 'item_id': self.item.id, 'content_index': 0}

  def _usage(self) -> dict[str, Any] | None:
    if self._reply is None or self.status == 'in_progress':
      return None
    usage = self._reply.usage
    text = usage.prompt_tokens - self._num_audio
    return {
      'input_tokens': usage.prompt_tokens,
      'output_tokens': usage.completion_tokens,
      'total_tokens': usage.prompt_tokens + usage.completion_tokens,
      'input_token_details': {
        'cached_tokens': usage.cached_tokens,
        'text_tokens': max(text, 0),
        'audio_tokens': self._num_audio,
      },
      'output_token_details': {
        'text_tokens': usage.completion_tokens,
        'audio_tokens': 0,
      },
    }
