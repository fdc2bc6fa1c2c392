# SPDX-License-Identifier: Apache-2.0
"""POST /v1/chat/completions: messages of text and audio to text and audio."""

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from acl_jax.serving import choices
from acl_jax.serving.bodies import read_json, unless_gone
from acl_jax.serving.events import EventStream, merge
from acl_jax.serving.messages import (
  REMEMBERED_SECONDS,
  SpokenReplies,
  has_speech,
  hear_clips,
  parse_messages,
)
from acl_jax.serving.reply import Reply, ReplyOptions
from acl_jax.serving.schemas import ChatRequest, SpokenOutput
from acl_jax.serving.service import Service
from acl_jax.serving.speech import Fault, Sound, speak_reply
from acl_jax.serving.voice import encode


class Completions:
  """The route."""

  def __init__(self, service: Service):
    self._service, self._spoken = service, SpokenReplies()

  async def __call__(self, request: Request) -> Response:
    """Answer a request."""
    body = await read_json(request, ChatRequest)
    self._service.check_model(body.model)
    if body.wants_audio:
      self._service.check_voice()
    return await unless_gone(request, self._answer(body))

  async def _answer(self, body: ChatRequest) -> Response:
    service = self._service
    turns, encoded = parse_messages(body.messages, self._spoken)
    clips = await hear_clips(service, encoded)
    replies: list[Reply] = []
    try:
      for options in _options(body):
        replies.append(service.reply(turns, clips, options))
      answer = Answer(service, body, replies, self._spoken, has_speech(turns, clips))
      if body.stream:
        return EventStream(answer.stream(), answer.cancel)
      return JSONResponse(await answer.complete())
    except BaseException:
      for reply in replies:
        reply.cancel()
      raise


class Answer:
  """The replies to one request, in the shape of OpenAI's API."""

  def __init__(
    self,
    service: Service,
    body: ChatRequest,
    replies: Sequence[Reply],
    spoken: SpokenReplies,
    heard: bool,
  ):
    self._service, self._body, self._replies = service, body, replies
    self._extra = {} if heard else {'heard': False}
    self._spoken, self._start = spoken, time.monotonic()
    self._id, self._created = f'chatcmpl-{secrets.token_hex(12)}', int(time.time())
    tokenizer = service.assistant.text.tokenizer
    self._log_probs = choices.LogProbs(tokenizer, body.top_logprobs or 0)

  async def complete(self) -> dict[str, Any]:
    """Wait for all replies; cancels all if one fails."""
    complete = self._speak_one if self._body.wants_audio else self._complete_one
    tasks = [asyncio.create_task(complete(*x)) for x in enumerate(self._replies)]
    try:
      made = await asyncio.gather(*tasks)
    finally:
      for task in tasks:
        task.cancel()
    return {
      **self._head('chat.completion'),
      'choices': made,
      'usage': choices.usage(self._replies),
    }

  async def stream(self) -> AsyncGenerator[dict[str, Any], None]:
    """Yield chunks while the replies are being written."""
    options = self._body.stream_options
    for index in range(len(self._replies)):
      yield self._chunk(index, {'role': 'assistant', 'content': ''})
    chunks = self._speak_chunks() if self._body.wants_audio else self._text_chunks()
    async with contextlib.aclosing(chunks):
      async for chunk in chunks:
        yield chunk
    if options is not None and options.include_usage:
      head = self._head('chat.completion.chunk')
      yield {**head, 'choices': [], 'usage': choices.usage(self._replies)}

  def cancel(self) -> None:
    """End the replies, whether they are complete or not."""
    for reply in self._replies:
      reply.cancel()

  async def _complete_one(self, index: int, reply: Reply) -> dict[str, Any]:
    text, tokens, reason = '', [], None
    async for piece in reply:
      text += piece.text
      tokens += piece.tokens
      reason = choices.finish_reason(piece)
    message = {'role': 'assistant', 'content': text, 'refusal': None}
    return self._choice(index, message, tokens, reason)

  async def _speak_one(self, index: int, reply: Reply) -> dict[str, Any]:
    text, tokens, reason, pcm, fault = '', [], None, bytearray(), ''
    assert self._service.voice is not None
    events = speak_reply(reply, self._service.voice)
    async with contextlib.aclosing(events):
      async for event in events:
        if isinstance(event, Sound):
          self._note_first_audio(not pcm)
          pcm += event.pcm
        elif isinstance(event, Fault):
          fault = event.message
        else:
          text += event.text
          tokens += event.tokens
          reason = choices.finish_reason(event)
    format = (self._body.audio or SpokenOutput()).format
    rate = self._service.voice.rate
    data = await asyncio.to_thread(encode, bytes(pcm), rate, format) if pcm else b''
    audio = self._audio_id(text)
    audio |= {'data': base64.b64encode(data).decode(), 'transcript': text}
    if fault:
      audio['error'] = fault
    message = {'role': 'assistant', 'content': None, 'refusal': None, 'audio': audio}
    return self._choice(index, message, tokens, reason)

  async def _text_chunks(self) -> AsyncGenerator[dict[str, Any], None]:
    async with contextlib.aclosing(merge(self._replies)) as pieces:
      async for index, piece in pieces:
        reason = choices.finish_reason(piece)
        if piece.text or (self._body.logprobs and piece.tokens):
          yield self._chunk(index, {'content': piece.text}, piece.tokens)
        if reason:
          yield self._chunk(index, {}, reason=reason)

  async def _speak_chunks(self) -> AsyncGenerator[dict[str, Any], None]:
    (reply,), text, reason, end = self._replies, '', None, {}
    assert self._service.voice is not None
    audio = self._audio_id('')
    events = speak_reply(reply, self._service.voice)
    is_first = True
    async with contextlib.aclosing(events):
      async for event in events:
        if isinstance(event, Sound):
          self._note_first_audio(is_first)
          is_first = False
          delta = {'data': base64.b64encode(event.pcm).decode()}
        elif isinstance(event, Fault):
          end = {'error': event.message}
          continue
        else:
          text += event.text
          reason = choices.finish_reason(event) or reason
          delta = {'transcript': event.text}
          if not event.text:
            continue
        yield self._chunk(0, {'audio': {'id': audio['id'], **delta}})
    self._spoken.put(audio['id'], text)
    yield self._chunk(0, {'audio': {**audio, **end}}, reason=reason)

  def _audio_id(self, text: str) -> dict[str, Any]:
    """Return a new id, under which a text is remembered, and when it expires."""
    id, expires_at = f'audio_{secrets.token_hex(12)}', time.time() + REMEMBERED_SECONDS
    self._spoken.put(id, text)
    return {'id': id, 'expires_at': int(expires_at)}

  def _note_first_audio(self, is_first: bool) -> None:
    if is_first:
      self._service.metrics.first_audio.observe(time.monotonic() - self._start)

  def _head(self, kind: str) -> dict[str, Any]:
    return {
      'id': self._id,
      'object': kind,
      'created': self._created,
      'model': self._service.name,
      **self._extra,
    }

  def _choice(
    self, index: int, message: dict[str, Any], tokens: list, reason: str | None
  ) -> dict[str, Any]:
    return {
      'index': index,
      'message': message,
      'logprobs': self._logprobs(tokens),
      'finish_reason': reason,
    }

  def _chunk(
    self,
    index: int,
    delta: dict[str, Any],
    tokens: Sequence = (),
    reason: str | None = None,
  ) -> dict[str, Any]:
    choice = {'index': index, 'delta': delta, 'finish_reason': reason}
    choice['logprobs'] = self._logprobs(tokens) if tokens else None
    return {**self._head('chat.completion.chunk'), 'choices': [choice]}

  def _logprobs(self, tokens: Sequence) -> dict[str, Any] | None:
    if not self._body.logprobs:
      return None
    return {'content': self._log_probs.content(tokens), 'refusal': None}


def _options(body: ChatRequest) -> list[ReplyOptions]:
  """Return the options of every choice, which differ in their seeds."""
  seed = secrets.randbits(31) if body.seed is None else body.seed
  limits = [x for x in (body.max_completion_tokens, body.max_tokens) if x is not None]
  return [
    ReplyOptions(
      max_new_tokens=min(limits, default=None),
      temperature=body.temperature or 0.0,
      top_p=1.0 if body.top_p is None else body.top_p,
      seed=(seed + index) % (1 << 31),
      stop=tuple(body.stop),
      num_top_tokens=(body.top_logprobs or 0) if body.logprobs else 0,
    )
    for index in range(body.n or 1)
  ]
