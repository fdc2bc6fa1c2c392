# SPDX-License-Identifier: Apache-2.0
"""A scripted server for the page: /v1/realtime without a model, with the page itself.

It answers at once and always alike, so that a test of the page is exact. Every event
of a browser is kept in `received`, every text in the order in which it was said.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import math
import socket
import threading
import time
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

import acl_jax.serving

PAGE = Path(acl_jax.serving.__file__).parent / 'page'
RATE = 24_000
CSP = (
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  "media-src 'self' blob:; img-src 'self' data:; worker-src 'self' blob:; "
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEARD = 'what is the capitol of france'
LOUD = 0.01  # root mean square above which the fake finds speech


def pcm(seconds: float, frequency: float = 220.0) -> bytes:
  """A tone that swells, so that its waveform is not a block."""
  t = np.arange(int(seconds * RATE)) / RATE
  envelope = 0.3 * np.abs(np.sin(2.3 * t) * np.sin(7 * t))
  return (envelope * np.sin(2 * np.pi * frequency * t) * 32767).astype('<i2').tobytes()


def heard_event(item_id: str) -> dict:
  """What was heard; one word of it is unsure."""
  words = HEARD.split()
  tokens = []
  for word in words:
    sure = word != 'capitol'
    others = [(word, 0.97)] if sure else [(word, 0.46), ('capital', 0.41)]
    tokens.append(
      {
        'token': f' {word}',
        'logprob': math.log(others[0][1]),
        'bytes': list(word.encode()),
        'alternatives': [
          {'token': f' {text}', 'logprob': math.log(p)} for text, p in others
        ],
      }
    )
  return {
    'kind': 'conversation.item.input_audio_transcription.completed',
    'item_id': item_id,
    'content_index': 0,
    'transcript': HEARD,
    'logprobs': tokens,
  }


class Conversation:
  """One connection: takes in events, answers as scripted."""

  def __init__(self, socket: WebSocket, server: 'FakeServer'):
    self.socket, self.server = socket, server
    self.items: dict[str, dict] = {}
    self.session: dict = {}
    self.buffer = b''
    self.streamed = 0  # bytes since the connection was made
    self.speech_start: int | None = None
    self.silence = 0
    self.task: asyncio.Task | None = None
    self.names = itertools.count()

  def name(self, kind: str) -> str:
    return f'{kind}_{id(self):x}_{next(self.names)}'

  async def send(self, kind: str, **fields) -> None:
    event = {'type': kind, 'event_id': self.name('event'), **fields}
    await self.socket.send_text(json.dumps(event))

  async def run(self) -> None:
    session = {'type': 'realtime', 'model': 'fake', 'output_modalities': ['audio']}
    await self.send('session.created', session=session)
    try:
      async for text in self.socket.iter_text():
        event = json.loads(text)
        self.server.received.append(event)
        await getattr(self, event['type'].replace('.', '_'), self.unknown)(event)
    except WebSocketDisconnect:
      pass
    finally:
      if self.task:
        self.task.cancel()

  async def unknown(self, event: dict) -> None:
    await self.error(f'{event["type"]} is not an event of this server.', 'unknown')

  async def error(self, message: str, code: str) -> None:
    error = {'type': 'invalid_request_error', 'message': message, 'code': code}
    await self.send('error', error=error)

  async def session_update(self, event: dict) -> None:
    detection = event['session']['audio']['input']['turn_detection']
    if self.session and self.session['audio']['input']['turn_detection'] != detection:
      self.streamed = 0
    self.session = event['session']
    await self.send('session.updated', session=self.session)

  async def input_audio_buffer_append(self, event: dict) -> None:
    piece = base64.b64decode(event['audio'])
    self.buffer += piece
    self.streamed += len(piece)
    if self.session['audio']['input']['turn_detection']:
      await self.detect(piece)

  async def detect(self, piece: bytes) -> None:
    samples = np.frombuffer(piece, '<i2') / 32768
    is_loud = np.sqrt(np.mean(samples**2)) > LOUD
    self.silence = 0 if is_loud else self.silence + len(samples)
    now = self.streamed // 2 * 1000 // RATE
    if is_loud and self.speech_start is None:
      self.speech_start = max(0, now - 300)
      self.item_id = self.name('item')
      await self.cancel()
      await self.send(
        'input_audio_buffer.speech_started',
        item_id=self.item_id,
        audio_start_ms=self.speech_start,
      )
    elif self.speech_start is not None and self.silence > RATE // 2:
      self.speech_start = None
      await self.send(
        'input_audio_buffer.speech_stopped', item_id=self.item_id, audio_end_ms=now
      )
      await self.commit(self.item_id)
      await self.response_create({})

  async def input_audio_buffer_clear(self, event: dict) -> None:
    self.buffer, self.speech_start = b'', None
    await self.send('input_audio_buffer.cleared')

  async def input_audio_buffer_commit(self, event: dict) -> None:
    await self.commit(self.name('item'))

  async def commit(self, item_id: str) -> None:
    self.server.recordings.append(np.frombuffer(self.buffer, '<i2'))
    self.buffer = b''
    content = [{'type': 'input_audio', 'transcript': HEARD}]
    await self.add({'id': item_id, 'role': 'user', 'content': content}, True)
    await self.send(**heard_event(item_id))

  async def add(self, item: dict, committed: bool = False) -> None:
    item = {'type': 'message', 'object': 'realtime.item', **item}
    self.items[item['id']] = item
    if committed:
      await self.send('input_audio_buffer.committed', item_id=item['id'])
    await self.send('conversation.item.added', item=item)
    await self.send('conversation.item.done', item=item)

  async def conversation_item_create(self, event: dict) -> None:
    item = event['item']
    await self.add(item)
    if any(part['type'] == 'input_audio' for part in item['content']):
      await self.send(**heard_event(item['id']))

  async def conversation_item_retrieve(self, event: dict) -> None:
    item = self.items[event['item_id']]
    await self.send('conversation.item.retrieved', item=item)

  async def conversation_item_truncate(self, event: dict) -> None:
    item = self.items.get(event['item_id'])
    if item is None:
      await self.error('There is no such item.', 'item_not_found')
      return
    part = item['content'][0]
    kept = event['audio_end_ms'] * RATE // 1000 // self.server.samples_per_word
    part['transcript'] = ' '.join(part['transcript'].split(' ')[:kept])
    fields = {key: event[key] for key in ('item_id', 'content_index', 'audio_end_ms')}
    await self.send('conversation.item.truncated', **fields)

  async def cancel(self) -> bool:
    if self.task is None or self.task.done():
      return False
    self.task.cancel()
    await asyncio.gather(self.task, return_exceptions=True)
    return True

  async def response_cancel(self, event: dict) -> None:
    if not await self.cancel():
      await self.error('No reply is in progress.', 'response_not_active')

  async def response_create(self, event: dict) -> None:
    self.task = asyncio.create_task(self.reply())

  def words(self) -> list[str]:
    """The reply: what was said before and now, as often as the script wants it."""
    said = [
      part.get('text') or part.get('transcript') or '(sound)'
      for item in self.items.values()
      if item['role'] == 'user'
      for part in item['content']
    ]
    earlier = f' Before that you asked: {said[-2]}.' if len(said) > 1 else ''
    text = f'You asked: {said[-1]}.{earlier} <b>That is all.</b>'
    if said[-1].startswith('Tell'):
      text = ' '.join([text] * 12)
    return text.split(' ')

  async def reply(self) -> None:
    response = {'id': self.name('resp'), 'status': 'in_progress', 'output': []}
    await self.send('response.created', response=response)
    await asyncio.sleep(self.server.delay)
    is_spoken = self.session['output_modalities'] == ['audio']
    kind, field = (
      ('output_audio', 'transcript') if is_spoken else ('output_text', 'text')
    )
    part = {'type': kind, field: ''}
    item = {'id': self.name('item'), 'role': 'assistant', 'content': [part]}
    where = {
      'response_id': response['id'],
      'item_id': item['id'],
      'output_index': 0,
      'content_index': 0,
    }
    self.items[item['id']] = item
    status = 'completed'
    try:
      await self.send(
        'response.output_item.added',
        item={**item, 'type': 'message', 'content': []},
        response_id=response['id'],
        output_index=0,
      )
      await self.send('response.content_part.added', **where, part=part)
      name = 'output_audio_transcript' if is_spoken else 'output_text'
      for i, word in enumerate(self.words()):
        delta = f' {word}' if i else word
        part[field] += delta
        await self.send(f'response.{name}.delta', **where, delta=delta)
        if is_spoken:
          sound = pcm(self.server.samples_per_word / RATE, 180 + 30 * (i % 5))
          delta = base64.b64encode(sound).decode()
          await self.send('response.output_audio.delta', **where, delta=delta)
        await asyncio.sleep(self.server.word_delay)
      await self.send(f'response.{name}.done', **where, **{field: part[field]})
    except asyncio.CancelledError:
      status = 'cancelled'
    done = {**response, 'status': status, 'output': [item]}
    done['timing'] = {'hear_ms': 118, 'first_token_ms': 240, 'first_audio_ms': 410}
    await self.send('response.done', response=done)


class FakeServer:
  """Runs in a thread at a free port of the loopback interface."""

  def __init__(self, delay: float = 0.1, word_delay: float = 0.02):
    self.delay, self.word_delay = delay, word_delay
    self.samples_per_word = RATE // 4
    self.received: list[dict] = []
    self.recordings: list[np.ndarray] = []
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      self.port = probe.getsockname()[1]
    self.url = f'http://localhost:{self.port}/'

  def of(self, kind: str) -> list[dict]:
    return [event for event in self.received if event['type'] == kind]

  def start(self) -> None:
    app = Starlette(
      routes=[
        Route('/', self.index),
        Mount('/page', StaticFiles(directory=PAGE)),
        WebSocketRoute('/v1/realtime', self.realtime),
      ]
    )
    config = uvicorn.Config(
      app,
      host='127.0.0.1',
      port=self.port,
      log_level='error',
      lifespan='off',
      ws_max_size=2**25,
    )
    self.server = uvicorn.Server(config)
    self.thread = threading.Thread(target=self.server.run)
    self.thread.start()
    while not self.server.started:
      time.sleep(0.01)

  def stop(self) -> None:
    self.server.should_exit = self.server.force_exit = True
    self.thread.join()

  async def index(self, request) -> FileResponse:
    headers = {'Content-Security-Policy': CSP}
    return FileResponse(PAGE / 'index.html', headers=headers)

  async def realtime(self, socket: WebSocket) -> None:
    await socket.accept()
    with contextlib.suppress(RuntimeError):  # it closed while an event was on its way
      await Conversation(socket, self).run()
