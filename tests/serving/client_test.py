# SPDX-License-Identifier: Apache-2.0
"""The official client against a server that listens; clients that vanish."""

import base64
import http.client
import io
import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest

from tests.serving.completions_test import PATH, body, clip, wait_until
from tests.serving.fakes import REPLY, wav

HI = [{'role': 'user', 'content': 'Hi'}]


@pytest.fixture
def api(url):
  with openai.OpenAI(base_url=f'{url}/v1', api_key='-', max_retries=0) as api:
    yield api


def test_completions(api):
  messages = [{'role': 'user', 'content': [clip(), {'type': 'text', 'text': 'Now?'}]}]
  made = api.chat.completions.create(
    model='tiny', messages=messages, logprobs=True, top_logprobs=2, n=2
  )
  assert [choice.message.content for choice in made.choices] == [REPLY] * 2
  content = made.choices[1].logprobs.content
  assert b''.join(bytes(c.bytes or ()) for c in content[:2]) == b'Gr'
  assert made.usage.prompt_tokens_details.cached_tokens > 0
  stream = api.chat.completions.create(
    model='tiny', messages=HI, stream=True, stream_options={'include_usage': True}
  )
  *chunks, last = stream
  assert ''.join(c.choices[0].delta.content or '' for c in chunks) == REPLY
  assert last.usage.completion_tokens == len(REPLY.encode()) + 1


def test_spoken_completions(api):
  made = api.chat.completions.create(
    model='tiny',
    messages=HI,
    modalities=['text', 'audio'],
    audio={'voice': 'alloy', 'format': 'wav'},
  )
  audio = made.choices[0].message.audio
  assert audio.transcript == REPLY and base64.b64decode(audio.data)[:4] == b'RIFF'
  again = [*HI, {'role': 'assistant', 'audio': {'id': audio.id}}, *HI]
  assert api.chat.completions.create(model='tiny', messages=again).choices


def test_audio_and_models(api):
  file = ('question.wav', io.BytesIO(wav()))
  made = api.audio.transcriptions.create(model='tiny', file=file)
  assert made.text == 'fourteen s'
  verbose = api.audio.transcriptions.create(
    model='tiny',
    file=('question.wav', io.BytesIO(wav())),
    response_format='verbose_json',
    timestamp_granularities=['word'],
  )
  assert verbose.words[0].word == 'fourteen' and verbose.duration == 0.5
  speech = api.audio.speech.create(
    model='tiny', voice='alloy', input='Hi.', response_format='wav'
  )
  assert speech.content[:4] == b'RIFF'
  assert [model.id for model in api.models.list()] == ['tiny']
  assert api.models.retrieve('tiny').owned_by == 'acl_jax'


def test_errors(api, service):
  with pytest.raises(openai.NotFoundError, match='no model'):
    api.chat.completions.create(model='gpt-4o', messages=HI)
  with pytest.raises(openai.BadRequestError) as caught:
    api.chat.completions.create(model='tiny', messages=HI, n=9)
  assert caught.value.param == 'n'
  service.engine.broken = True
  with pytest.raises(openai.APIError, match='the model failed'):
    list(api.chat.completions.create(model='tiny', messages=HI, stream=True))


@pytest.mark.parametrize('streamed', [False, True])
def test_a_client_that_vanishes_frees_its_slot(url, service, streamed):
  service.engine.hold()
  connection = http.client.HTTPConnection(urlsplit(url).netloc)
  headers = {'Content-Type': 'application/json'}
  connection.request('POST', PATH, json.dumps(body(stream=streamed)), headers)
  wait_until(lambda: service.engine.requests)
  if streamed:
    assert connection.getresponse().status == 200
  connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
  connection.close()
  wait_until(lambda: service.engine.requests[0].cancelled)
  wait_until(lambda: not service.engine.statistics.running)
  wait_until(lambda: service.is_idle)


def test_a_limit_is_said_before_the_body_is_read(url):
  with socket.create_connection(urlsplit(url).netloc.split(':')) as connection:
    connection.sendall(
      b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
      b'Content-Type: application/json\r\nContent-Length: 999999999\r\n\r\n'
    )
    connection.settimeout(10)
    assert connection.recv(99).startswith(b'HTTP/1.1 413 ')


def test_slow_and_half_requests_disturb_nobody(url, api):
  address = urlsplit(url).netloc.split(':')
  slow = [socket.create_connection(address) for _ in range(50)]
  for connection in slow:
    connection.sendall(
      b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
      b'Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"mess'
    )
  start = time.monotonic()
  assert api.chat.completions.create(model='tiny', messages=HI).choices
  assert time.monotonic() - start < 10
  for connection in slow:
    connection.close()


def test_junk_is_no_request(url, api):
  for junk in (b'\x16\x03\x01' * 99, b'GET\r\n\r\n', b'\0' * 9_999):
    with socket.create_connection(urlsplit(url).netloc.split(':')) as connection:
      connection.sendall(junk)
      connection.shutdown(socket.SHUT_WR)
      connection.settimeout(10)
      assert not connection.recv(99).startswith(b'HTTP/1.1 5')
  assert [model.id for model in api.models.list()] == ['tiny']
