# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the answer is no 500 and no hang."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from acl_jax.serving.app import make_app
from acl_jax.serving.schemas import ChatRequest, SpeechRequest, TranscriptionForm
from tests.serving.completions_test import PATH, clip
from tests.serving.fakes import make_service, wav

STATUSES = {200, 400, 401, 403, 404, 405, 413, 415, 422, 429, 503}
FIELDS = sorted({*ChatRequest.model_fields, *ChatRequest.unsupported, 'x'})
SPEECH_FIELDS = sorted({*SpeechRequest.model_fields, *SpeechRequest.unsupported})
FORM_FIELDS = sorted({*TranscriptionForm.model_fields, 'include[]', 'stream', 'file'})

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
words = st.sampled_from(
  [
    'text',
    'audio',
    'input_audio',
    'user',
    'assistant',
    'system',
    'wav',
    'tiny',
    '<|im_end|>',
  ]
)
anything = st.recursive(
  scalars | words,
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(words | st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=9,
)
parts = st.one_of(
  st.fixed_dictionaries({'type': st.just('text'), 'text': st.text(max_size=9)}),
  st.just(clip(wav(0.05))),
  st.fixed_dictionaries(
    {
      'type': st.just('input_audio'),
      'input_audio': st.fixed_dictionaries(
        {'data': st.text('AZaz09+/=', max_size=40), 'format': words}
      ),
    }
  ),
  anything,
)
messages = st.lists(
  st.fixed_dictionaries(
    {'role': st.sampled_from(['user', 'assistant', 'system', 'tool'])},
    optional={'content': st.text(max_size=9) | st.lists(parts, max_size=3) | anything},
  ),
  max_size=3,
)
likely = st.fixed_dictionaries(
  {'messages': messages},
  optional={
    'max_tokens': st.integers(-1, 9),
    'n': st.integers(0, 5),
    'stream': st.booleans(),
    'temperature': st.floats(-0.5, 2.5),
    'top_p': st.floats(0, 1),
    'seed': st.integers(),
    'stop': st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=5),
    'logprobs': st.booleans(),
    'top_logprobs': st.integers(0, 21),
    'modalities': st.lists(st.sampled_from(['text', 'audio']), max_size=3),
    'audio': st.just({'voice': 'x', 'format': 'pcm16'}) | anything,
  },
)


@pytest.fixture(scope='module')
def fuzzed():
  service = make_service(max_audio_seconds=1.0)
  app = make_app(service)
  options = dict(base_url='http://localhost', raise_server_exceptions=False)
  with TestClient(app, **options) as client:
    yield client
    assert service.is_idle
  service.close(0.0)


def check(response):
  assert response.status_code in STATUSES, response.text
  if response.status_code != 200:
    (error,) = response.json().values()
    assert error['message'] and '\n' not in error['message']


@settings(max_examples=150)
@given(likely)
def test_conversations(fuzzed, body):
  check(fuzzed.post(PATH, content=json.dumps(body), headers=JSON))


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), anything, max_size=6), messages)
def test_any_values(fuzzed, body, messages):
  body = {'messages': messages, **body}
  check(fuzzed.post(PATH, content=json.dumps(body), headers=JSON))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(SPEECH_FIELDS), anything, max_size=5))
def test_speech(fuzzed, body):
  check(fuzzed.post('/v1/audio/speech', content=json.dumps(body), headers=JSON))


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([PATH, '/v1/audio/speech']))
def test_bytes(fuzzed, data, path):
  check(fuzzed.post(path, content=data, headers=JSON))


@settings(max_examples=60)
@given(
  st.binary(max_size=80) | st.just(wav(0.1)),
  st.dictionaries(st.sampled_from(FORM_FIELDS), st.text(max_size=9), max_size=4),
  st.text(max_size=20),
)
def test_forms(fuzzed, data, fields, name):
  path = '/v1/audio/transcriptions'
  check(fuzzed.post(path, data=fields, files={'file': (name, data)}))


@settings(max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(['', ';boundary=b', ';boundary="é']))
def test_damaged_forms(fuzzed, data, more):
  headers = {'Content-Type': f'multipart/form-data{more}'.encode()}
  framed = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n' + data
  )
  for content in (data, framed):
    path = '/v1/audio/transcriptions'
    check(fuzzed.post(path, content=content, headers=headers))


JSON = {'Content-Type': 'application/json'}
