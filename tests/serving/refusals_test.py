# SPDX-License-Identifier: Apache-2.0
import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from acl_jax.serving.app import make_app
from tests.serving.completions_test import PATH, body, clip
from tests.serving.fakes import wav


def refusal(response, status):
  assert response.status_code == status, response.text
  (error,) = response.json().values()
  assert list(error) == ['message', 'type', 'param', 'code']
  return error


@pytest.mark.parametrize(
  'changes, param, text',
  [
    ({'n': 5}, 'n', 'less than or equal to 4'),
    ({'temperature': 'hot'}, 'temperature', 'valid number'),
    ({'temperature': 2.1}, 'temperature', 'less than or equal to 2'),
    ({'top_p': 0}, 'top_p', 'greater than 0'),
    ({'seed': 1 << 70}, 'seed', ''),
    ({'top_logprobs': 3}, None, 'needs logprobs'),
    ({'tools': [{'type': 'function'}]}, None, 'tools is not supported'),
    ({'response_format': {'type': 'json_object'}}, None, 'response_format is not'),
    ({'frequency_penalty': 0.5}, None, 'frequency_penalty is not supported'),
    ({'temprature': 0}, 'temprature', 'does not know this parameter'),
    ({'messages': []}, 'messages', 'at least 1'),
    ({'modalities': ['video']}, 'modalities.0', "'text' or 'audio'"),
    (
      {'modalities': ['audio'], 'audio': {'format': 'aac', 'voice': 'x'}},
      'audio.format',
      'pcm16',
    ),
    ({'modalities': ['audio'], 'stream': True}, None, 'pcm16'),
    ({'modalities': ['audio'], 'n': 2}, None, 'n must be 1'),
  ],
)
def test_parameters(client, changes, param, text):
  error = refusal(client.post(PATH, json={**body(), **changes}), 400)
  assert error['param'] == param and text in error['message']


def test_harmless_parameters(client):
  harmless = dict(
    user='u', store=True, metadata={'a': 1}, tools=None, tool_choice='auto'
  )
  harmless |= dict(response_format={'type': 'text'}, presence_penalty=0, logit_bias={})
  harmless |= dict(reasoning_effort='low', service_tier='auto', functions=[])
  assert client.post(PATH, json=body(**harmless)).status_code == 200


@pytest.mark.parametrize(
  'messages, text',
  [
    ([{'role': 'tool', 'content': 'x'}], 'role'),
    ([{'role': 'user', 'content': ''}], 'neither text nor audio'),
    ([{'role': 'user', 'content': []}], 'neither text nor audio'),
    ([{'role': 'user'}], 'neither text nor audio'),
    ([{'role': 'assistant', 'content': 'x'}], 'last message'),
    ([{'role': 'user', 'content': [{'type': 'image_url'}]}], 'image_url'),
    ([{'role': 'user', 'content': 'x' * 700}], '600 tokens'),
    ([{'role': 'user', 'content': 'x' * 600 * 33}], 'characters'),
  ],
)
def test_messages(client, service, messages, text):
  error = refusal(client.post(PATH, json={'messages': messages}), 400)
  assert text in error['message']
  assert service.engine.requests == []


def half(data):
  return data[: len(data) // 2]


def header_of_a_million_samples():
  data = bytearray(wav(0.1))
  data[40:44] = (2_000_000).to_bytes(4, 'little')
  return bytes(data[:44])


def nans():
  data = wav(0.1, subtype='FLOAT')
  return data[:200] + b'\xff\xff\xff\x7f' * 300


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'junk' * 99,
    half(wav(0.5)),
    header_of_a_million_samples(),
    nans(),
    wav(0.01),
    wav(3.5),
  ],
  ids=['empty', 'junk', 'half', 'million', 'nan', 'short', 'long'],
)
def test_audio(client, service, data):
  service.limits = replace(service.limits, max_audio_seconds=3.0)
  error = refusal(client.post(PATH, json=body([clip(data)])), 400)
  assert error['param'] == 'messages.0.content.0' and error['code'] == 'invalid_audio'
  files = {'file': ('../../etc/passwd', data)}
  error = refusal(client.post('/v1/audio/transcriptions', files=files), 400)
  assert 'passwd' not in error['message']


def test_clips_are_limited_together(client, service):
  service.limits = replace(service.limits, max_audio_seconds=1.2)
  assert client.post(PATH, json=body([clip(), clip()])).status_code == 200
  error = refusal(client.post(PATH, json=body([clip(), clip(), clip()])), 400)
  assert '1.2 s together' in error['message']


@pytest.mark.parametrize(
  'data',
  ['https://example.org/a.wav', 'data:audio/wav;base64,AAAA', 'file:///etc/x', 'é'],
)
def test_neither_urls_nor_files_are_read(client, data):
  part = {'type': 'input_audio', 'input_audio': {'data': data, 'format': 'wav'}}
  assert (
    'is not base64' in refusal(client.post(PATH, json=body([part])), 400)['message']
  )


@pytest.mark.parametrize(
  'data', [b'\x1a\x45\xdf\xa3' + b'x' * 99, b'\0\0\0\x18ftypM4A ' + b'x' * 99]
)
def test_damaged_containers(client, data):
  error = refusal(client.post(PATH, json=body([clip(data, 'webm')])), 400)
  assert 'ffmpeg -i' in error['message']


@pytest.mark.parametrize(
  'data', [b'', b'{', b'[]', b'null', b'\xff', b'[' * 10**5, b'{"messages": NaN}', b'1']
)
def test_bodies(client, data):
  headers = {'Content-Type': 'application/json'}
  refusal(client.post(PATH, content=data, headers=headers), 400)


def test_kinds_of_bodies(client):
  refusal(client.post(PATH, data={'a': 'b'}), 415)
  refusal(client.post('/v1/audio/transcriptions', json={}), 415)
  headers = {'Content-Type': 'multipart/form-data'}
  path = '/v1/audio/transcriptions'
  refusal(client.post(path, content=b'x', headers=headers), 400)
  refusal(client.post(path, data={'model': 'tiny'}, files={'x': b'y'}), 400)
  refusal(client.post(path, files=[('file', b'x'), ('file', b'y')]), 400)


def test_paths_methods_models(client):
  refusal(client.get('/v1/nothing'), 404)
  refusal(client.get('/page/../app.py'), 404)
  refusal(client.get('/page/%2e%2e/app.py'), 404)
  assert refusal(client.get(PATH), 405)['type'] == 'invalid_request_error'
  error = refusal(client.post(PATH, json=body(model='gpt-4o')), 404)
  assert (error['param'], error['code']) == ('model', 'model_not_found')
  refusal(client.get('/v1/models/gpt-4o'), 404)


def test_limit_of_a_body(service):
  service.limits = replace(service.limits, max_body_bytes=5_000)
  with TestClient(make_app(service), base_url='http://localhost') as client:
    # Said before it is read: the body has not arrived when the header has.
    headers = {'Content-Length': '5001', 'Content-Type': 'application/json'}
    refusal(client.post(PATH, content=b'{', headers=headers), 413)
    refusal(client.post(PATH, json=body('x' * 5_000)), 413)

    def chunks():
      for _ in range(6):
        yield b' ' * 1_000

    headers = {'Content-Type': 'application/json'}
    refusal(client.post(PATH, content=chunks(), headers=headers), 413)
    headers = {'Content-Type': 'multipart/form-data; boundary=b'}
    path = '/v1/audio/transcriptions'
    refusal(client.post(path, content=chunks(), headers=headers), 413)
    for length in ('-1', 'x', '9' * 5_000, '\N{SUPERSCRIPT TWO}'.encode('latin-1')):
      response = client.post(PATH, content=b'', headers={'Content-Length': length})
      assert response.status_code in (400, 413)


def test_not_ready_and_closing(client, service):
  service.ready = False
  refusal(client.get('/ready'), 503)
  assert client.get('/health').status_code == 200
  assert refusal(client.post(PATH, json=body()), 503)['type'] == 'server_error'
  service.ready = service.closing = True
  response = client.post(PATH, json=body())
  assert 'shutting down' in refusal(response, 503)['message']
  assert response.headers['retry-after'] == '5'
  assert client.get('/metrics').status_code == 200


def test_without_a_voice(client, service):
  service.voice = None
  refusal(client.post(PATH, json=body(modalities=['audio'])), 503)
  refusal(client.post('/v1/audio/speech', json={'input': 'x'}), 503)


def test_a_bug_has_no_details(service, monkeypatch):
  def fail(samples):
    raise RuntimeError('/secret/path')

  service.hearing.hear = fail
  app = make_app(service)
  options = dict(base_url='http://localhost', raise_server_exceptions=False)
  with TestClient(app, **options) as client:
    response = client.post(PATH, json=body([clip()]))
  assert 'secret' not in response.text
  refusal(response, 500)


def test_too_many_recordings_at_once(client, service):
  service.limits = replace(service.limits, max_queue=1)
  service.hearing.seconds = 0.5
  with ThreadPoolExecutor(3) as pool:
    posts = [pool.submit(client.post, PATH, json=body([clip()])) for _ in range(3)]
    statuses = sorted(post.result().status_code for post in posts)
  assert statuses == [200, 429, 429]
  service.hearing.seconds = 0.0
  assert client.post(PATH, json=body([clip()])).status_code == 200


def test_samples_are_not_what_they_seem():
  assert np.isnan(np.frombuffer(nans()[200:], '<f4')).all()
  assert base64.b64decode(clip()['input_audio']['data']) == wav()
