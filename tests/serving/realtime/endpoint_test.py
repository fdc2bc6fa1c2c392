# SPDX-License-Identifier: Apache-2.0
import asyncio
import base64
import contextlib
import json
import socket
import threading
import time

import numpy as np
import openai
import pytest
import uvicorn
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from acl_jax.serving.app import make_app
from acl_jax.serving.realtime import endpoint
from tests.serving.fakes import REPLY
from tests.serving.realtime_fakes import encode, make_service, silence, speech

ANY_EVENT = TypeAdapter(RealtimeServerEvent)


@pytest.fixture
def service(monkeypatch):
  monkeypatch.setattr(endpoint, 'find_silero', lambda: None)  # noise is no speech to it
  service = make_service()
  yield service
  service.engine.release()
  service.close(0.0)


@contextlib.contextmanager
def running(service):
  """Serve in a thread; yields the port."""
  bound = socket.create_server(('127.0.0.1', 0))
  config = uvicorn.Config(
    make_app(service), lifespan='off', log_level='critical', ws='websockets-sansio'
  )
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, kwargs={'sockets': [bound]})
  thread.start()
  try:
    while not server.started:
      time.sleep(0.01)
    yield bound.getsockname()[1]
  finally:
    server.should_exit = server.force_exit = True
    thread.join()


def wait_until(condition):
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


async def until(connection, kind, events):
  async with asyncio.timeout(30):
    while True:
      raw = await connection.recv_bytes()
      # As the client's own types define it, without its leniency.
      events.append(ANY_EVENT.validate_json(raw))
      if events[-1].type == kind:
        return events[-1]


async def talk(port):
  client = openai.AsyncOpenAI(api_key='none', base_url=f'http://127.0.0.1:{port}/v1')
  events = []
  async with client, client.realtime.connect(model='tiny') as connection:
    created = await until(connection, 'session.created', events)
    assert created.session.audio.input.format.rate == 24_000
    await connection.session.update(
      session={
        'type': 'realtime',
        'instructions': 'Be brief.',
        'output_modalities': ['audio'],
        'audio': {
          'input': {
            'format': {'type': 'audio/pcm', 'rate': 24_000},
            'turn_detection': {'type': 'server_vad', 'silence_duration_ms': 400},
          }
        },
      }
    )
    pcm = silence(0.6) + speech(0.8) + silence(0.8)
    for start in range(0, len(pcm), 4_800):
      await connection.input_audio_buffer.append(audio=encode(pcm[start:][:4_800]))
    done = await until(connection, 'response.done', events)
    assert done.response.status == 'completed'
    assert done.response.output[0].content[0].transcript == REPLY
    sound = b''.join(
      base64.b64decode(e.delta)
      for e in events
      if e.type == 'response.output_audio.delta'
    )
    assert np.frombuffer(sound, '<i2').any()
    content = [{'type': 'input_text', 'text': 'And then?'}]
    await connection.conversation.item.create(
      item={'type': 'message', 'role': 'user', 'content': content}
    )
    await connection.response.create(response={'output_modalities': ['text']})
    text = await until(connection, 'response.output_text.done', events)
    assert text.text == REPLY
    done = await until(connection, 'response.done', events)
    assert done.response.usage.input_token_details.cached_tokens > 0
    await connection.send({'type': 'nonsense'})
    error = await until(connection, 'error', events)
    assert 'nonsense' in error.error.message
  return events


def test_the_official_client(service):
  with running(service) as port:
    events = asyncio.run(talk(port))
  assert 'conversation.item.input_audio_transcription.completed' in {
    event.type for event in events
  }


def test_a_client_that_vanishes_frees_its_slot(service):
  service.engine.seconds = 0.02
  service.engine.text = REPLY * 20
  with TestClient(make_app(service)) as client:
    with client.websocket_connect(f'ws://localhost{endpoint.PATH}') as websocket:
      websocket.send_json({'type': 'session.update', 'session': {}})
      item = {
        'type': 'message',
        'role': 'user',
        'content': [{'type': 'input_text', 'text': 'Hi'}],
      }
      websocket.send_json({'type': 'conversation.item.create', 'item': item})
      websocket.send_json({'type': 'response.create'})
      while 'transcript.delta' not in websocket.receive_json()['type']:
        pass
    wait_until(lambda: not service.engine.statistics.running)
    assert service.engine.requests[0].cancelled and service.is_idle


def app_with(sessions):
  return Starlette(routes=[WebSocketRoute('/', sessions.converse)])


def test_more_sessions_than_allowed(service):
  sessions = endpoint.Sessions(service, limit=1)
  with TestClient(app_with(sessions)) as client:
    with client.websocket_connect('/', subprotocols=['realtime', 'other']) as first:
      assert first.accepted_subprotocol == 'realtime'
      assert first.receive_json()['type'] == 'session.created'
      with client.websocket_connect('/') as second:
        assert second.receive_json()['error']['code'] == 'too_many_sessions'
        with pytest.raises(WebSocketDisconnect) as closed:
          second.receive_json()
        assert closed.value.code == 1013
    wait_until(lambda: not sessions.num_open)


def test_an_idle_session_ends(service):
  sessions = endpoint.Sessions(service, idle_seconds=0.2)
  with TestClient(app_with(sessions)) as client:
    with client.websocket_connect('/') as websocket:
      websocket.receive_json()
      assert websocket.receive_json()['error']['code'] == 'session_expired'
      with pytest.raises(WebSocketDisconnect):
        websocket.receive_json()
    wait_until(lambda: not sessions.num_open)


def test_binary_frames_and_long_events(service, monkeypatch):
  monkeypatch.setattr('acl_jax.serving.realtime.schema.MAX_EVENT_BYTES', 1_000)
  with TestClient(app_with(endpoint.Sessions(service))) as client:
    with client.websocket_connect('/') as websocket:
      websocket.receive_json()
      websocket.send_bytes(
        json.dumps({'type': 'session.update', 'session': {}}).encode()
      )
      assert websocket.receive_json()['type'] == 'session.updated'
      websocket.send_text('x' * 1_001)
      assert websocket.receive_json()['error']['code'] == 'event_too_large'
