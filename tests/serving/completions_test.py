# SPDX-License-Identifier: Apache-2.0
import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from tests.serving.fakes import REPLY, wav

PATH = '/v1/chat/completions'


def body(content='Hi', **more):
  return {'messages': [{'role': 'user', 'content': content}], **more}


def clip(data=None, format='wav'):
  text = base64.b64encode(wav() if data is None else data).decode()
  return {'type': 'input_audio', 'input_audio': {'data': text, 'format': format}}


def stream(client, **more):
  response = client.post(PATH, json=body(stream=True, **more))
  assert response.status_code == 200, response.text
  assert response.headers['content-type'].startswith('text/event-stream')
  *events, done, rest = response.text.split('\n\n')
  assert (done, rest) == ('data: [DONE]', '')
  return [json.loads(event.removeprefix('data: ')) for event in events]


def wait_until(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_reply_with_usage(client, service):
  answer = client.post(PATH, json=body(model='tiny')).json()
  (choice,) = answer['choices']
  assert choice['message'] == {'role': 'assistant', 'content': REPLY, 'refusal': None}
  assert choice['finish_reason'] == 'stop' and choice['logprobs'] is None
  (ticket,) = service.engine.requests
  assert answer['usage'] == {
    'prompt_tokens': ticket.num_prompt,
    'completion_tokens': len(REPLY.encode()) + 1,
    'total_tokens': ticket.num_prompt + len(REPLY.encode()) + 1,
    'prompt_tokens_details': {'cached_tokens': ticket.num_prompt // 2},
  }
  assert service.is_idle


def test_roles_and_clips_become_the_prompt(client, service):
  messages = [
    {'role': 'developer', 'content': 'Be brief.'},
    {'role': 'user', 'content': [clip(), {'type': 'text', 'text': ' and '}, clip()]},
    {'role': 'assistant', 'content': 'Yes.'},
    {'role': 'user', 'content': [clip(wav(0.25))]},
  ]
  assert client.post(PATH, json={'messages': messages}).status_code == 200
  prompt = service.engine.requests[0].request.prompt
  tokenizer = service.assistant.text.tokenizer
  shown = ''.join(
    f'<{len(p.embeddings)}>' if hasattr(p, 'embeddings') else tokenizer.decode(p)
    for p in prompt
  )
  assert shown == (
    'system\nBe brief.\nuser\n<5> and <5>\nassistant\nYes.\nuser\n<3>\nassistant\n'
  )


@pytest.mark.parametrize('format', ['WAV', 'FLAC', 'OGG', 'MP3'])
def test_containers(client, format):
  more = {'subtype': 'OPUS'} if format == 'OGG' else {}
  data = wav(0.5, 24_000, format, **more)
  assert client.post(PATH, json=body([clip(data)])).status_code == 200


def test_recordings_without_speech_are_named(client):
  silent, words = io.BytesIO(), wav(0.5)
  soundfile.write(silent, np.zeros(8_000), 16_000, format='WAV')
  for data, fields in ((silent.getvalue(), {'heard': False}), (words, {})):
    for chunk in (
      client.post(PATH, json=body([clip(data)])).json(),
      *stream(client, content=[clip(data)]),
    ):
      assert {key: chunk[key] for key in chunk if key == 'heard'} == fields


def test_stream(client):
  *chunks, last = stream(client, stream_options={'include_usage': True})
  assert last['choices'] == [] and last['usage']['completion_tokens'] > 9
  assert {c['object'] for c in chunks} == {'chat.completion.chunk'}
  assert len({c['id'] for c in chunks}) == 1
  deltas = [c['choices'][0]['delta'] for c in chunks]
  assert deltas[0] == {'role': 'assistant', 'content': ''}
  assert ''.join(d.get('content', '') for d in deltas) == REPLY
  assert not any('\ufffd' in d.get('content', '') for d in deltas)
  reasons = [c['choices'][0]['finish_reason'] for c in chunks]
  assert reasons == [None] * (len(chunks) - 1) + ['stop']


def test_choices_have_their_own_seeds(client, service):
  answer = client.post(PATH, json=body(n=3, temperature=0.5, seed=40)).json()
  texts = [choice['message']['content'] for choice in answer['choices']]
  assert texts == [f'{REPLY} {seed}' for seed in (40, 41, 42)]
  chunks = stream(client, n=2, temperature=0.5, seed=-1)
  texts = ['', '']
  for chunk in chunks:
    (choice,) = chunk['choices']
    texts[choice['index']] += choice['delta'].get('content', '')
  assert texts == [f'{REPLY} {seed}' for seed in (2**31 - 1, 0)]
  assert service.is_idle


@pytest.mark.parametrize('streamed', [False, True])
def test_stop_string_frees_the_slot(client, service, streamed):
  options = dict(stop=['never', ' is a test'], logprobs=True)
  if streamed:
    deltas = [c['choices'][0] for c in stream(client, **options)]
    text = ''.join(c['delta'].get('content', '') for c in deltas)
    reason = deltas[-1]['finish_reason']
  else:
    (choice,) = client.post(PATH, json=body(**options)).json()['choices']
    text, reason = choice['message']['content'], choice['finish_reason']
  assert (text, reason) == ('Größe: 3 €. It', 'stop')
  wait_until(lambda: not service.engine.statistics.running)


def test_limit(client):
  (choice,) = client.post(PATH, json=body(max_tokens=3)).json()['choices']
  # The third token is the first half of a character.
  assert (choice['message']['content'], choice['finish_reason']) == (
    'Gr\ufffd',
    'length',
  )
  for name in ('max_tokens', 'max_completion_tokens'):
    more = {name: 10**6}  # more than the context has is what the context has
    assert client.post(PATH, json=body(**more)).status_code == 200


def test_log_probabilities(client):
  options = dict(max_tokens=4, logprobs=True, top_logprobs=2)
  (choice,) = client.post(PATH, json=body(**options)).json()['choices']
  content = choice['logprobs']['content']
  assert [c['token'] for c in content] == ['G', 'r', '\ufffd', '\ufffd']
  assert [c['bytes'] for c in content] == [[71], [114], None, None]
  assert {c['logprob'] for c in content} == {-0.25}
  assert [[t['logprob'] for t in c['top_logprobs']] for c in content] == [
    [-1.5, -3.0]
  ] * 4
  tokens = []
  for chunk in stream(client, **options):
    (choice,) = chunk['choices']
    tokens += (choice['logprobs'] or {'content': []})['content']
  assert tokens == content


def test_spoken_reply(client, service):
  audio = {'voice': 'alloy', 'format': 'pcm16'}
  answer = client.post(PATH, json=body(modalities=['text', 'audio'], audio=audio))
  (choice,) = answer.json()['choices']
  message = choice['message']
  assert message['content'] is None and message['audio']['transcript'] == REPLY
  sentences = ['Größe: 3 €.', 'It is a test, of course!', '日本語 is fine.']
  assert service.voice.spoken == sentences
  pcm = base64.b64decode(message['audio']['data'])
  assert len(pcm) == 2 * 10 * sum(map(len, sentences))
  assert message['audio']['expires_at'] > time.time() + 3_000
  # A later turn may name it.
  messages = [
    {'role': 'user', 'content': 'Hi'},
    {'role': 'assistant', 'audio': {'id': message['audio']['id']}},
    {'role': 'user', 'content': 'Again'},
  ]
  assert client.post(PATH, json={'messages': messages}).status_code == 200
  prompt = service.engine.requests[-1].request.prompt[0]
  assert REPLY in service.assistant.text.tokenizer.decode(prompt)
  messages[1]['audio']['id'] = 'audio_0'
  assert client.post(PATH, json={'messages': messages}).status_code == 400


def test_spoken_stream_begins_before_the_text_ends(client, service):
  service.engine.seconds = 0.005
  audio = {'voice': 'alloy', 'format': 'pcm16'}
  chunks = stream(client, modalities=['text', 'audio'], audio=audio)
  deltas = [c['choices'][0]['delta'].get('audio', {}) for c in chunks]
  text = ''.join(d.get('transcript', '') for d in deltas)
  pcm = b''.join(base64.b64decode(d.get('data', '')) for d in deltas)
  assert text == REPLY and len(pcm) % 2 == 0 and np.frombuffer(pcm, '<i2').any()
  kinds = [next(iter(d.keys() & {'data', 'transcript'}), '') for d in deltas]
  assert kinds.index('data') < len(kinds) - 1 - kinds[::-1].index('transcript')
  assert 'expires_at' in deltas[-1] and chunks[-1]['choices'][0]['finish_reason']
  assert len({d['id'] for d in deltas if d}) == 1


@pytest.mark.parametrize('streamed', [False, True])
def test_text_goes_on_without_the_voice(client, service, streamed):
  service.voice.fails_on = 'course'
  audio = {'voice': 'alloy', 'format': 'pcm16'}
  options = dict(modalities=['audio', 'text'], audio=audio)
  if streamed:
    deltas = [
      c['choices'][0]['delta'].get('audio', {}) for c in stream(client, **options)
    ]
    text = ''.join(d.get('transcript', '') for d in deltas)
    error = deltas[-1]['error']
  else:
    (choice,) = client.post(PATH, json=body(**options)).json()['choices']
    text, error = (choice['message']['audio'][key] for key in ('transcript', 'error'))
  assert text == REPLY and error == 'the process of the voice ended'


def test_a_failure_of_the_engine(client, service):
  service.engine.broken = True
  response = client.post(PATH, json=body())
  assert response.status_code == 500
  assert response.json()['error']['type'] == 'server_error'
  last = stream(client)[-1]
  assert last['error']['message'] == 'the model failed on this reply'
  assert service.is_idle


def test_a_full_queue(client, service):
  service.engine.hold()
  # Three have slots, two wait.
  with ThreadPoolExecutor(5) as pool:
    waiting = [pool.submit(client.post, PATH, json=body()) for _ in range(5)]
    wait_until(lambda: len(service.engine.requests) == 5)
    refused = client.post(PATH, json=body())
    assert (refused.status_code, refused.headers['retry-after']) == (429, '7')
    assert refused.json()['error']['code'] == 'queue_full'
    # All replies of a request, or none.
    assert client.post(PATH, json=body(n=2)).status_code == 429
    service.engine.release()
    assert {future.result().status_code for future in waiting} == {200}
