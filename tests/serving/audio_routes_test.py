# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import soundfile

from tests.serving.fakes import wav
from tests.serving.refusals_test import refusal

TRANSCRIPTIONS, SPEECH = '/v1/audio/transcriptions', '/v1/audio/speech'


def transcribe(client, **fields):
  return client.post(TRANSCRIPTIONS, data=fields, files={'file': ('a.wav', wav(0.75))})


def test_json_and_text(client):
  assert transcribe(client, model='tiny').json() == {'text': 'fourteen s'}
  harmless = dict(language='en', prompt='x', temperature='0', stream='false')
  assert transcribe(client, **harmless).json() == {'text': 'fourteen s'}
  response = transcribe(client, response_format='text')
  assert response.text == 'fourteen s\n'
  assert response.headers['content-type'] == 'text/plain; charset=utf-8'


def test_verbose(client):
  fields = {
    'response_format': 'verbose_json',
    'timestamp_granularities[]': ['word', 'segment'],
  }
  body = transcribe(client, **fields).json()
  assert (body['duration'], body['text']) == (0.75, 'fourteen s')
  assert body['words'] == [
    {'word': 'fourteen', 'start': 0.0, 'end': 0.75},
    {'word': 's', 'start': None, 'end': None},
  ]
  assert body['segments'][0]['tokens'] == [3, 4, 5]
  assert body['tokens'][0] == {
    'id': 3,
    'text': ' four',
    'logprob': -0.1,
    'start': 0.0,
    'end': 0.5,
    'alternatives': [{'text': ' for', 'logprob': -2.5}],
  }
  assert [token['logprob'] for token in body['tokens']] == [-0.1, None, -0.2]


@pytest.mark.parametrize(
  'fields, param',
  [
    ({'response_format': 'srt'}, 'response_format'),
    ({'stream': 'true'}, None),
    ({'timestamp_granularities[]': ['letter']}, 'granularities.0'),
    ({'speaker': 'x'}, 'speaker'),
  ],
)
def test_fields(client, fields, param):
  assert refusal(transcribe(client, **fields), 400)['param'] == param


def test_a_model_without_words(client, service):
  service.hearing.recognises = False
  refusal(transcribe(client), 422)
  refusal(transcribe(client, model='whisper-1'), 404)


@pytest.mark.parametrize(
  'format, kind', [('mp3', 'mpeg'), ('wav', 'wav'), ('flac', 'flac'), ('opus', 'ogg')]
)
def test_speech(client, format, kind):
  body = {'input': 'Go. ' * 250, 'voice': 'alloy', 'response_format': format}
  response = client.post(SPEECH, json=body)
  assert response.headers['content-type'] == f'audio/{kind}'
  samples, rate = soundfile.read(io.BytesIO(response.content))
  assert rate == 24_000 and abs(len(samples) - 10_000) < 3_000


def test_pcm_and_failures(client, service):
  body = {'input': 'Hi!', 'response_format': 'pcm'}
  samples = np.frombuffer(client.post(SPEECH, json=body).content, '<i2')
  np.testing.assert_array_equal(samples, np.repeat([ord(c) for c in 'Hi!'], 10))
  service.voice.fails_on = 'Hi'
  for format in ('pcm', 'mp3'):
    response = client.post(SPEECH, json={**body, 'response_format': format})
    assert 'the voice failed' in refusal(response, 503)['message']


@pytest.mark.parametrize(
  'changes',
  [{'input': ''}, {'input': 'x' * 4_097}, {'speed': 1.5}, {'response_format': 'aac'}],
)
def test_refused_speech(client, changes):
  refusal(client.post(SPEECH, json={'input': 'x', **changes}), 400)
  neutral = {'speed': 1.0, 'instructions': '', 'voice': {'id': 'v'}}
  assert client.post(SPEECH, json={'input': 'x', **neutral}).status_code == 200


def test_metrics(client, service):
  assert transcribe(client).status_code == 200
  messages = [{'role': 'user', 'content': 'Hi'}]
  client.post('/v1/chat/completions', json={'messages': messages})
  client.get('/nothing')
  text = client.get('/metrics').text
  tokens = service.engine.statistics.tokens
  route = 'route="/v1/chat/completions",status="200"'
  for line in (
    f'acl_jax_engine_tokens_total {tokens}.0',
    'acl_jax_engine_slots 3.0',
    'acl_jax_heard_seconds_total 0.75',
    'acl_jax_first_token_seconds_count 1.0',
    'acl_jax_reply_tokens_per_second_count 1.0',
    f'acl_jax_requests_total{{{route}}} 1.0',
    'acl_jax_requests_total{route="other",status="404"} 1.0',
  ):
    assert line in text.splitlines(), text
