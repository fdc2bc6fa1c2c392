# SPDX-License-Identifier: Apache-2.0
"""POST /v1/audio/transcriptions and /v1/audio/speech: the ears and the voice alone."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.responses import StreamingResponse as Stream

from acl_jax.serving.bodies import check_form, read_form, read_json, unless_gone
from acl_jax.serving.errors import APIError
from acl_jax.serving.parts import Heard
from acl_jax.serving.schemas import SpeechRequest, TranscriptionForm
from acl_jax.serving.service import Service
from acl_jax.serving.voice import FORMATS, VoiceError, encode

_LISTS = {'timestamp_granularities': 'granularities', 'include': 'include'}


class Transcriptions:
  """The route of transcriptions: what the model's own ears decide."""

  def __init__(self, service: Service):
    self._service = service

  async def __call__(self, request: Request) -> Response:
    """Transcribe a file."""
    fields, data = await self._read(request)
    heard = await unless_gone(request, self._service.hear(data, 'file'))
    if heard.transcript is None:
      raise APIError(422, 'this model hears without words: it has no transcripts')
    return _format(heard, heard.transcript, fields)

  async def _read(self, request: Request) -> tuple[TranscriptionForm, bytes]:
    """Return the fields of a form and the bytes of its file."""
    async with read_form(request) as form:
      file = form.get('file')
      if not isinstance(file, UploadFile):
        raise APIError(400, 'file is missing: it is the audio', param='file')
      values: dict[str, Any] = {}
      for key, value in form.multi_items():
        name = key.removesuffix('[]')
        if name in _LISTS:
          values.setdefault(_LISTS[name], []).append(value)
        elif name != 'file':
          values[name] = value
      fields = check_form(TranscriptionForm, values)
      self._service.check_model(fields.model)
      return fields, await file.read()


def _format(heard: Heard, transcript: str, fields: TranscriptionForm) -> Response:
  if fields.response_format == 'text':
    return PlainTextResponse(transcript + '\n')
  body: dict[str, Any] = {'text': transcript}
  if not heard.has_speech:
    body['heard'] = False
  if fields.response_format == 'verbose_json':
    body |= {
      'task': 'transcribe',
      'language': fields.language or 'english',
      'duration': heard.seconds,
      'segments': [_segment(heard, transcript)],
      'tokens': [_token(token) for token in heard.tokens],
    }
    if 'word' in fields.granularities:
      body['words'] = _words(heard.tokens)
  elif 'logprobs' in fields.include:
    body['logprobs'] = [
      {'token': t.text, 'logprob': _finite(t.log_prob), 'bytes': list(t.text.encode())}
      for t in heard.tokens
    ]
  return JSONResponse(body)


def _segment(heard: Heard, transcript: str) -> dict[str, Any]:
  log_probs = [token.log_prob for token in heard.tokens]
  return {
    'id': 0,
    'seek': 0,
    'start': 0.0,
    'end': heard.seconds,
    'text': transcript,
    'tokens': [token.id for token in heard.tokens],
    'temperature': 0.0,
    'avg_logprob': _finite(sum(log_probs) / len(log_probs)) if log_probs else None,
    'compression_ratio': None,
    'no_speech_prob': None,
  }


def _token(token: Any) -> dict[str, Any]:
  """Return a token with its times, null where the model does not know them."""
  alternatives = [
    {'text': text, 'logprob': _finite(log_prob)}
    for text, log_prob in token.alternatives
  ]
  return {
    'id': token.id,
    'text': token.text,
    'logprob': _finite(token.log_prob),
    'start': _finite(token.start),
    'end': _finite(token.end),
    'alternatives': alternatives,
  }


def _words(tokens: Sequence[Any]) -> list[dict[str, Any]]:
  """Join tokens to words: each begins at a token with a space before it."""
  starts = itertools.accumulate(token.text[:1].isspace() for token in tokens)
  words = []
  for _, group in itertools.groupby(zip(starts, tokens, strict=True), lambda x: x[0]):
    parts = [token for _, token in group]
    word = ''.join(token.text for token in parts).strip()
    start, end = _finite(parts[0].start), _finite(parts[-1].end)
    if word:
      words.append({'word': word, 'start': start, 'end': end})
  return words


def _finite(value: float) -> float | None:
  """Return a number for JSON, which has neither NaN nor infinity."""
  return float(value) if math.isfinite(value) else None


class Speech:
  """The route of speech: the voice of the server, whatever voice is asked for."""

  def __init__(self, service: Service):
    self._service = service

  async def __call__(self, request: Request) -> Response:
    """Speak a text; PCM is sent while it is spoken."""
    body = await read_json(request, SpeechRequest)
    self._service.check_model(body.model)
    self._service.check_voice()
    voice = self._service.voice
    assert voice is not None
    pieces = voice.speak(body.input)
    try:
      if body.response_format == 'pcm':
        first = await unless_gone(request, _next(pieces))
        return Stream(_chain(first, pieces), media_type=FORMATS['pcm16'])
      pcm = await unless_gone(request, _join(pieces))
    except VoiceError as error:
      raise APIError(503, f'the voice failed: {error}', retry_after=1) from None
    format = body.response_format
    data = await asyncio.to_thread(encode, pcm, voice.rate, format)
    return Response(data, media_type=FORMATS[format])


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
  return await anext(pieces, b'')


async def _join(pieces: AsyncIterator[bytes]) -> bytes:
  return b''.join([piece async for piece in pieces])


async def _chain(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
  yield first
  async for piece in pieces:
    yield piece
